"""Run directories of the real format, written by the code that writes real ones, with known numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lwd.evaluation.results import EpisodeResult, EvaluationResult, summarise
from lwd.evaluation.rollouts import evaluation_seed
from lwd.types import Outcome

SHORT = ("close_window", "move_cube", "open_drawer", "press_button")
LONG = ("put_in_drawer", "rearrange_hard", "rearrange_medium", "unlock_and_lock")


def evaluation(
    method: str, rates: Mapping[str, float], *, episodes: int = 20, world: str = "nominal", base_seed: int = 0
) -> EvaluationResult:
    """An evaluation in which exactly round(rate * episodes) episodes of each task succeed."""
    results = [
        EpisodeResult(
            task=task,
            index=index,
            seed=evaluation_seed(task, index, base_seed),
            instruction=f"please {task}",
            outcome=Outcome.SUCCESS if index < round(rate * episodes) else Outcome.TIME_LIMIT,
            steps=40 + index,
            sub_step_scores=(1.0, 1.0) if index < round(rate * episodes) else (1.0, 0.0),
        )
        for task, rate in rates.items()
        for index in range(episodes)
    ]
    return EvaluationResult(
        method=method,
        checkpoint="policy.safetensors sha256:0",
        world=world,
        base_seed=base_seed,
        heldout_instructions=True,
        episodes=tuple(results),
        summary=summarise(results, {task: task in LONG for task in rates}),
    )


def write_metrics(
    run: Path,
    stage: str,
    names: Sequence[str],
    *,
    rows: int = 40,
    start_s: float = 1_000.0,
    every_s: float = 5.0,
    snapshot_per_row: int = 0,
) -> None:
    """Learner metrics, one row per 50 updates; metric k of row i is a smooth curve with a little noise."""
    directory = run / "metrics"
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(stage))
    with (directory / "learner.jsonl").open("a") as file:
        for row in range(rows):
            fade = float(np.exp(-3 * row / rows))
            metrics = {
                name: (0.2 + 0.1 * place) * fade + 0.3 + 0.02 * float(rng.normal())
                for place, name in enumerate(names)
            }
            record = {
                "time_s": start_s + every_s * row,
                "process": "learner",
                "stage": stage,
                "update": 50 * (row + 1),
                "snapshot": 1 + snapshot_per_row * row,
                "policy_version": row,
                "metrics": metrics,
            }
            file.write(json.dumps(record) + "\n")
