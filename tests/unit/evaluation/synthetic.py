"""Run directories of the real format, written by the code that writes real ones, with known numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.policies import PolicyManifest, manifest_key
from lwd.data.store import ObjectStore, open_store
from lwd.evaluation.results import EpisodeResult, EvaluationResult, summarise
from lwd.evaluation.rollouts import evaluation_seed
from lwd.types import Episode, Outcome, Source

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
                name: (0.2 + 0.1 * place) * fade + 0.3 + 0.02 * float(rng.normal()) for place, name in enumerate(names)
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


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """One fleet episode to commit."""

    outcome: Outcome
    steps: int = 100
    human_steps: int = 0
    interventions: int = 0
    policy_version: int = 0
    committed_at_s: float = 1_000.0
    task: str = "open_drawer"
    source: Source = Source.FLEET


def write_fleet(run: Path, plans: Sequence[FleetPlan], *, control_hz: float = 10.0) -> None:
    """Commit episodes to RUN/store, one per snapshot; the objects themselves are not written."""
    commits = [
        (
            plan.committed_at_s,
            EpisodeEntry(
                episode_id=f"episode-{number}",
                key=episode_key(f"robot-{number % 2}", f"episode-{number}"),
                sha256="0" * 64,
                bytes=1,
                robot_id=f"robot-{number % 2}",
                embodiment="ogbench-scene",
                task=plan.task,
                instruction="go",
                source=plan.source,
                outcome=plan.outcome,
                world="nominal",
                policy_version=plan.policy_version,
                steps=plan.steps,
                human_steps=plan.human_steps,
                interventions=plan.interventions,
                sub_step_scores=(1.0,),
                control_hz=control_hz,
                started_at_s=plan.committed_at_s - 10.0,
                uploaded_at_s=plan.committed_at_s - 0.5,
            ),
        )
        for number, plan in enumerate(plans)
    ]
    _commit(open_store(run / "store"), commits)


def write_episodes(run: Path, episodes: Sequence[Episode]) -> None:
    """Store recorded episodes in RUN/store and commit them, one per snapshot."""
    store = open_store(run / "store")
    commits = []
    for episode in episodes:
        info, data = episode.info, write_episode(episode)
        key = episode_key(info.robot_id, info.episode_id)
        store.create(key, data)
        shared = {name: getattr(info, name) for name in EpisodeEntry.model_fields if hasattr(info, name)}
        entry = EpisodeEntry(
            **shared,
            key=key,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            steps=episode.steps,
            human_steps=int(episode.controllers_T.sum()),
            interventions=0,
            uploaded_at_s=info.started_at_s + 5.0,
        )
        commits.append((info.started_at_s + 6.0, entry))
    _commit(store, commits)


def _commit(store: ObjectStore, commits: Sequence[tuple[float, EpisodeEntry]]) -> None:
    reader = LogReader(store)
    reader.poll()
    writer = LogWriter(store, reader)
    for committed_at_s, entry in commits:
        version = reader.version + 1
        log_entry = LogEntry(
            version=version,
            epoch=1,
            batch_id=f"batch-{version}",
            committed_at_s=committed_at_s,
            added=(entry,),
        )
        assert writer.commit(log_entry)
        writer.write_index_if_due()


def write_policies(run: Path, published_at_s: Sequence[float]) -> None:
    """Manifests of policies 0, 1, ... in RUN/store, published at the given times; no weights."""
    store = open_store(run / "store")
    for version, time_s in enumerate(published_at_s):
        manifest = PolicyManifest(
            version=version,
            key=f"policies/{version:012d}.safetensors",
            sha256="0" * 64,
            bytes=1,
            update=50 * version,
            snapshot=version,
            published_at_s=time_s,
        )
        store.create(manifest_key(version), manifest.model_dump_json().encode())
