"""What a finished cell of the experiment leaves behind: one small JSON file, kept in git.

A record holds every evaluation episode's outcome and the curves of the training that led to it, so the page can be
written on a machine that has trained nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lwd.data import durable
from lwd.errors import ConfigError
from lwd.evaluation.results import EvaluationResult

Stage = Literal["sft", "offline", "online"]


@dataclass(frozen=True, kw_only=True)
class TaskEpisodes:
    """One task's evaluation episodes, in the order of their index."""

    successes: tuple[int, ...]
    """1 or 0."""
    steps: tuple[int, ...]
    """Control steps."""
    sub_steps: tuple[float, ...]
    """Mean sub-step score, in [0, 1]; the outcome for a task without sub-steps."""
    long_horizon: bool


@dataclass(frozen=True, kw_only=True)
class Points:
    """A curve, thinned: x and y of equal length, and its interval where it has one."""

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FleetRecord:
    """What the fleet of an online stage did."""

    env_steps: int
    episodes: int
    robot_hours: float
    interventions: int
    human_steps: int
    success: Points
    """Rolling success without help over robot hours."""
    interventions_per_hour: Points
    """Rolling, over robot hours."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """The training stage whose policy was evaluated."""

    wall_s: float
    """Of all its attempts."""
    updates: int
    updates_per_s: float | None
    """Median over the metrics' intervals; None if there were fewer than two."""
    env_steps_per_s: float | None
    """Of the whole fleet, likewise; None without a fleet."""
    means: Mapping[str, float]
    """Metric -> mean over the stage."""
    curves: Mapping[str, Points]
    """Metric -> its values over updates."""
    fleet: FleetRecord | None = None


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One evaluated cell: a method's policy after a stage, with one training seed."""

    key: str
    name: str
    method: str
    stage: Stage
    seed: int
    robots: int = 0
    """0 where no fleet was involved."""
    env_steps: int = 0
    """Fleet steps asked for."""
    evaluation_seed: int
    world: str
    control_hz: float
    wall_s: float
    """Of the evaluation."""
    tasks: Mapping[str, TaskEpisodes]
    """Empty if the cell failed."""
    training: TrainingRecord | None = None
    error: str | None = None
    """Why the cell, or a cell that it needs, failed."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the key is the hash of."""

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def episodes(self) -> int:
        return sum(len(task.successes) for task in self.tasks.values())

    def save(self, directory: Path) -> Path:
        """Write the record as `<name>-<first 12 digits of the key>.json`, durably; return the path."""
        path = directory / file_name(self.name, self.key)
        content: dict[str, Any] = _RECORD.dump_python(self, mode="json")
        # One line per field: whoever reads a diff sees which part changed.
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
        durable.ensure_directory(directory)
        durable.replace(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        return path


_RECORD: TypeAdapter[CellRecord] = TypeAdapter(CellRecord)


def file_name(name: str, key: str) -> str:
    return f"{name}-{key[:12]}.json"


def load_record(path: Path) -> CellRecord:
    """Read a record.

    Raises:
        ConfigError: if the file is no record.
    """
    try:
        return _RECORD.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a record of a cell ({error}); delete it, and its cell is run again"
        ) from error


def task_episodes(result: EvaluationResult) -> dict[str, TaskEpisodes]:
    """Return an evaluation's episodes in the form of a record."""
    return {
        name: TaskEpisodes(
            successes=tuple(int(episode.success) for episode in result.episodes if episode.task == name),
            steps=tuple(episode.steps for episode in result.episodes if episode.task == name),
            sub_steps=tuple(round(episode.partial, 4) for episode in result.episodes if episode.task == name),
            long_horizon=task.long_horizon,
        )
        for name, task in result.summary.tasks.items()
    }
