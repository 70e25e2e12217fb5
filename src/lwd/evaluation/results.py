"""What an evaluation leaves behind: episodes one by one, then a summary with intervals.

`EvaluationJournal` appends every finished episode to a JSON-lines file, so an interrupted evaluation goes on
where it stopped. The finished result is one JSON file, `eval/<method>.json` of a run.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from lwd.data import durable
from lwd.data.plain_file import read_plain_file
from lwd.errors import ConfigError
from lwd.evaluation.statistics import Interval, mean_over_tasks, wilson_interval
from lwd.types import Outcome

_MAX_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One evaluation episode."""

    task: str
    index: int
    """Which of the task's evaluation episodes; the seed follows from task, index and the base seed."""
    seed: int
    instruction: str
    outcome: Outcome
    steps: int
    sub_step_scores: tuple[float, ...]

    @property
    def success(self) -> bool:
        return self.outcome is Outcome.SUCCESS

    @property
    def partial(self) -> float:
        """Mean sub-step score; a task without sub-steps is scored by its outcome."""
        return float(np.mean(self.sub_step_scores)) if self.sub_step_scores else float(self.success)


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """One task's success rate with its Wilson interval."""

    episodes: int
    successes: int
    rate: float
    ci95: tuple[float, float]
    sub_step_score: float
    """Mean over episodes of the mean sub-step score: partial credit for the long tasks."""
    long_horizon: bool


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """A mean over tasks, each weighing the same, with its bootstrap interval."""

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The numbers of one evaluation."""

    mean: float
    ci95: tuple[float, float]
    short: GroupSummary | None
    """None if no short task was evaluated."""
    long: GroupSummary | None
    mean_sub_step_score: float
    mean_steps_success: float | None
    """Mean control steps of the successful episodes; None without a success."""
    tasks: Mapping[str, TaskSummary]


@dataclass(frozen=True, kw_only=True)
class EvaluationHeader:
    """What must not change between the parts of one evaluation."""

    method: str
    checkpoint: str
    """Name and SHA-256 of the policy that acted."""
    world: str
    base_seed: int
    heldout_instructions: bool


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One method's evaluation; written as `eval/<method>.json`."""

    method: str
    checkpoint: str
    world: str
    base_seed: int
    heldout_instructions: bool
    episodes: tuple[EpisodeResult, ...]
    """Sorted by task, then index."""
    summary: EvaluationSummary

    def scores(self) -> dict[str, list[float]]:
        """Task -> success (1 or 0) of its episodes, in the order of their index."""
        return success_scores(self.episodes)

    def save(self, path: Path) -> None:
        """Write the result atomically.

        Raises:
            StoreError: if the disk is full or the directory cannot be written.
        """
        durable.replace(path.absolute(), _RESULT.dump_json(self, indent=1))


_RESULT: TypeAdapter[EvaluationResult] = TypeAdapter(EvaluationResult)
_EPISODE: TypeAdapter[EpisodeResult] = TypeAdapter(EpisodeResult)


def load_result(path: Path) -> EvaluationResult:
    """Read one evaluation.

    Raises:
        ConfigError: if the file is missing or is not an evaluation.
    """
    content = read_plain_file(path, max_bytes=_MAX_BYTES)
    if content is None:
        raise ConfigError(f"evaluation {path} does not exist; run `lwd evaluate` first")
    try:
        return _RESULT.validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"{path} is not an evaluation result ({error}); run `lwd evaluate` again") from error


def success_scores(episodes: Sequence[EpisodeResult]) -> dict[str, list[float]]:
    """Task -> success (1 or 0) per episode, in the order of the evaluation index."""
    scores: dict[str, list[float]] = {}
    for episode in sorted(episodes, key=lambda item: (item.task, item.index)):
        scores.setdefault(episode.task, []).append(float(episode.success))
    return scores


def summarise(episodes: Sequence[EpisodeResult], long_horizon: Mapping[str, bool]) -> EvaluationSummary:
    """Compute every number of the summary from the episodes.

    Args:
        episodes: at least one.
        long_horizon: task -> whether it is one of the long tasks.
    """
    scores = success_scores(episodes)
    partial = {task: [episode.partial for episode in episodes if episode.task == task] for task in scores}
    tasks: dict[str, TaskSummary] = {}
    for task, values in scores.items():
        wilson = wilson_interval(int(sum(values)), len(values))
        tasks[task] = TaskSummary(
            episodes=len(values),
            successes=int(sum(values)),
            rate=wilson.mean,
            ci95=(wilson.low, wilson.high),
            sub_step_score=float(np.mean(partial[task])),
            long_horizon=long_horizon[task],
        )
    overall = mean_over_tasks([scores])
    steps = [episode.steps for episode in episodes if episode.success]
    return EvaluationSummary(
        mean=overall.mean,
        ci95=(overall.low, overall.high),
        short=_group({task: values for task, values in scores.items() if not long_horizon[task]}),
        long=_group({task: values for task, values in scores.items() if long_horizon[task]}),
        mean_sub_step_score=float(np.mean([summary.sub_step_score for summary in tasks.values()])),
        mean_steps_success=float(np.mean(steps)) if steps else None,
        tasks=tasks,
    )


def _group(scores: Mapping[str, Sequence[float]]) -> GroupSummary | None:
    if not scores:
        return None
    interval: Interval = mean_over_tasks([scores])
    return GroupSummary(mean=interval.mean, ci95=(interval.low, interval.high))


class EvaluationJournal:
    """Finished episodes, appended to a JSON-lines file whose first line pins their evaluation."""

    def __init__(self, path: Path, header: EvaluationHeader) -> None:
        """Open or create the journal.

        A line that a crash left half written is dropped (its episode is run again).

        Raises:
            ConfigError: if the file belongs to another evaluation (policy, world, seed or instructions), or is damaged.
            StoreError: if the disk is full or the directory cannot be written.
        """
        self._path = path
        self._episodes: list[EpisodeResult] = []
        try:
            with durable.explained(path):
                self._open(path, header)
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}): delete it to start anew") from error

    def _open(self, path: Path, header: EvaluationHeader) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole, _, _torn = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
        lines = whole.splitlines()
        wanted: dict[str, Any] = asdict(header)
        if lines:
            found = json.loads(lines[0])
            if found != wanted:
                changed = sorted(key for key in wanted if found.get(key) != wanted[key])
                raise ConfigError(
                    f"{path} holds another evaluation ({', '.join(changed)} changed); delete it to start anew"
                )
            self._episodes = [_EPISODE.validate_json(line) for line in lines[1:]]
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1)
        else:
            path.write_bytes(json.dumps(wanted).encode() + b"\n")

    @property
    def episodes(self) -> tuple[EpisodeResult, ...]:
        return tuple(self._episodes)

    def append(self, episode: EpisodeResult) -> None:
        """Record one finished episode; it is on the disk when this returns.

        Raises:
            StoreError: if the disk is full.
        """
        with durable.explained(self._path), self._path.open("ab") as file:
            file.write(_EPISODE.dump_json(episode) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._episodes.append(episode)
