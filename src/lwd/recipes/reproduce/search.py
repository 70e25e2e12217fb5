"""The search for settings: candidates of each method, trained offline and evaluated on validation starts.

Nothing of it touches the evaluation seed of the tables. Every finished candidate is added to OUT/search.json at once
and not run again; the page shows the list with its cost.
"""

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from lwd.data import durable
from lwd.errors import ConfigError, NonFiniteLoss
from lwd.evaluation.results import EvaluationResult
from lwd.evaluation.statistics import mean_over_tasks
from lwd.recipes.evaluate import evaluate_checkpoint
from lwd.recipes.methods import with_method
from lwd.recipes.reproduce.scale import WORLD
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import Recipe, StageRecipe
from lwd.recipes.stages import run_offline
from lwd.recipes.verbs import link_tree

RESULTS = "search.json"
VALIDATION_SEED = 7
"""Of the starts; those of the tables are 2000."""
Value = float | int | str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method with one setting changed."""

    method: str
    setting: str
    """A field of the offline stage's recipe, or of its algorithm."""
    value: Value

    @property
    def name(self) -> str:
        return f"{self.method}-{self.setting}-{self.value}"

    def apply(self, stage: StageRecipe) -> StageRecipe:
        """Return the stage with this setting.

        Raises:
            ConfigError: if neither the stage nor its algorithm has it.
        """
        if self.setting in {field.name for field in fields(stage.algorithm)}:
            changed: Any = {self.setting: self.value}
            return replace(stage, algorithm=replace(stage.algorithm, **changed))
        if self.setting in {field.name for field in fields(stage)}:
            of_stage: Any = {self.setting: self.value}
            return replace(stage, **of_stage)
        raise ConfigError(f"setting is {self.setting!r}; neither the stage nor the algorithm of {self.method!r} has it")


def _grid(method: str, setting: str, *values: Value) -> list[Candidate]:
    return [Candidate(method=method, setting=setting, value=value) for value in values]


CANDIDATES: tuple[Candidate, ...] = (
    *_grid("fql", "distillation_weight", 1.0, 10.0, 100.0),
    *_grid("recap", "guidance", 1.0, 1.5, 2.5),
    *_grid("best_of_n", "samples", 4, 16, 64),
    *_grid("expectile", "expectile", 0.7, 0.9),
    *_grid("lwd", "auto_temperature_fraction", 0.6, 1.0, 1.5),
    *_grid("lwd_paper", "auto_temperature_fraction", 0.6, 1.0),
    *_grid("qam", "auto_temperature_fraction", 0.6, 1.0),
)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Where to search from, and how hard."""

    run: Path
    """A run with offline data and a finished SFT stage."""
    root: Path
    """Directory of the candidates' runs."""
    out: Path
    seed: int = 0
    episodes: int = 15
    """Per task."""
    jobs: int = 2
    """Candidates side by side, each on one core."""


def run_search(
    config: SearchConfig,
    recipe: Recipe,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    say: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run the candidates that have no result yet; return whether all have one.

    Raises:
        CheckpointError: if the run's SFT stage is not finished.
    """
    RunDirectory(config.run).finished("sft", "sft")
    done = {(row["method"], row["setting"], row["value"], row["seed"]) for row in _load(config.out)}
    todo = [item for item in candidates if (item.method, item.setting, item.value, config.seed) not in done]
    waiting = iter(todo)
    finished = 0
    # Ctrl-C is the parent's to handle: it lets the candidates that run come to their end.
    with ProcessPoolExecutor(
        config.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        first = [item for _, item in zip(range(config.jobs), waiting, strict=False)]
        running = {pool.submit(_try, config, recipe, item): item for item in first}
        while running:
            future = next(as_completed(running))
            row, finished = future.result(), finished + 1
            running.pop(future)
            _add(config.out, row)
            outcome = "failed" if row["success"] is None else f"{row['success']:.3f}"
            say(f"{finished}/{len(todo)}  {row['method']} {row['setting']} = {row['value']}: {outcome}")
            if not stop() and (item := next(waiting, None)) is not None:
                running[pool.submit(_try, config, recipe, item)] = item
    return finished == len(todo)


def _try(config: SearchConfig, recipe: Recipe, candidate: Candidate) -> dict[str, Any]:
    """Train and evaluate one candidate in this process; one that diverges is a result, too: no success, no episode."""
    torch.set_num_threads(1)
    started_s = time.monotonic()
    success, episodes = None, 0
    with suppress(NonFiniteLoss):
        result = _trained_and_evaluated(config, recipe, candidate)
        success, episodes = round(mean_over_tasks([result.scores()]).mean, 4), len(result.episodes)
    return {
        **asdict(candidate),
        "seed": config.seed,
        "success": success,
        "episodes": episodes,
        "minutes": round((time.monotonic() - started_s) / 60, 1),
    }


def _trained_and_evaluated(config: SearchConfig, recipe: Recipe, candidate: Candidate) -> EvaluationResult:
    run = RunDirectory(config.root / f"{candidate.name}-seed{config.seed}")
    link_tree(config.run / "store", run.path / "store")
    link_tree(config.run / "checkpoints" / "sft", run.path / "checkpoints" / "sft")
    stage = candidate.apply(with_method(recipe, candidate.method).offline)
    checkpoint = run_offline(run, stage, seed=config.seed)
    return evaluate_checkpoint(
        checkpoint.policy_path,
        run.path / "eval" / "validation.json",
        method=candidate.method,
        episodes_per_task=config.episodes,
        world=WORLD,
        seed=VALIDATION_SEED,
        workers=0,
    )


def _load(out: Path) -> list[dict[str, Any]]:
    path = out / RESULTS
    return json.loads(path.read_text()) if path.exists() else []


def _add(out: Path, row: dict[str, Any]) -> None:
    durable.ensure_directory(out)
    durable.replace(out / RESULTS, json.dumps([*_load(out), row], indent=1).encode())
