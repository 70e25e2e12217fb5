"""Read a run directory into one `RunData`, from which the report, the terminal table and `--json` are made.

The commit log belongs to the data room, so evaluation imports that room here and in value_episodes.py.
Whatever a run does not have (no online stage yet, no evaluation) is simply empty.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.log import LogReader
from lwd.data.plain_file import read_plain_file
from lwd.data.policies import PolicyManifest, published_policies
from lwd.data.store import ObjectStore, open_store
from lwd.errors import ConfigError
from lwd.evaluation.results import EvaluationResult, load_result
from lwd.types import Outcome, Source

_MAX_BYTES = 1 << 28
Doubles = npt.NDArray[np.float64]

METHODS = {
    "sft": "SFT",
    "hg_dagger": "HG-DAgger",
    "filtered_bc": "Filtered BC",
    "recap": "RECAP",
    "lwd_offline": "LWD offline",
    "lwd_online": "LWD online",
}
"""Method -> the name shown, in the order of the tables; other methods follow under their own name."""


class MetricRow(BaseModel):
    """One line of `metrics/<process>.jsonl`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    time_s: float
    process: str
    stage: str = ""
    update: int | None = None
    snapshot: int | None = None
    policy_version: int | None = None
    metrics: Mapping[str, float | None] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One metric over the updates of a stage."""

    update: Doubles
    value: Doubles


@dataclass(frozen=True, kw_only=True)
class FleetEpisode:
    """One committed episode, as far as a report needs it."""

    episode_id: str
    key: str
    """Of the episode's object in the store."""
    robot_id: str
    embodiment: str
    task: str
    source: Source
    outcome: Outcome
    steps: int
    human_steps: int
    interventions: int
    policy_version: int
    control_hz: float
    started_at_s: float
    uploaded_at_s: float
    committed_at_s: float
    snapshot: int
    """Version of the snapshot that added it."""

    @property
    def hours(self) -> float:
        """Robot time in hours."""
        return self.steps / self.control_hz / 3600


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Everything that a report of one run is made from."""

    path: Path
    config: Mapping[str, Any]
    evaluations: Mapping[str, EvaluationResult]
    """By method, in the order of METHODS."""
    rows: tuple[MetricRow, ...]
    """Of all processes, by time."""
    episodes: tuple[FleetEpisode, ...]
    """All committed episodes, in the order of the log."""
    snapshots: int
    """Version of the last snapshot; 0 without one."""
    policies: tuple[PolicyManifest, ...]
    """Published policies, oldest first."""
    notes: tuple[str, ...] = field(default=())
    """What could not be read, in words."""

    @property
    def fleet(self) -> tuple[FleetEpisode, ...]:
        """The episodes that the deployed fleet recorded."""
        return tuple(episode for episode in self.episodes if episode.source is Source.FLEET)

    def learner_rows(self, stage: str) -> tuple[MetricRow, ...]:
        return tuple(row for row in self.rows if row.stage == stage and row.update is not None)

    def series(self, stage: str, name: str) -> Series:
        """A metric over the updates of a stage; empty if it was never recorded.

        A resumed learner repeats the updates after its checkpoint: the later row counts.
        """
        points = {
            row.update: value
            for row in self.learner_rows(stage)
            if (value := row.metrics.get(name)) is not None and np.isfinite(value)
        }
        table = np.asarray(sorted(points.items()), dtype=np.float64).reshape(-1, 2)
        return Series(update=table[:, 0], value=table[:, 1])


def read_run(path: Path, store: ObjectStore | None = None) -> RunData:
    """Read a run directory.

    Args:
        store: where the run's episodes are; RUN/store by default.
    Raises:
        ConfigError: if the directory does not exist, or holds neither configuration, metrics nor evaluations.
        StoreError: if the store cannot be read or its log is damaged.
    """
    if not path.is_dir():
        raise ConfigError(f"run {path} is not a directory; give the directory that `lwd demo` or `lwd up` wrote")
    notes: list[str] = []
    config = _read_config(path / "config.json", notes)
    rows = _read_rows(sorted((path / "metrics").glob("*.jsonl")), notes)
    evaluations = _read_evaluations(path / "eval", notes)
    if store is None and (path / "store").is_dir():
        store = open_store(path / "store")
    episodes, snapshots = ((), 0) if store is None else _read_log(store)
    policies = () if store is None else _read_policies(store)
    if not (config or rows or evaluations or episodes):
        raise ConfigError(f"run {path} holds no configuration, metrics, episodes or evaluations; is it the right one?")
    return RunData(
        path=path,
        config=config,
        evaluations=evaluations,
        rows=rows,
        episodes=episodes,
        snapshots=snapshots,
        policies=policies,
        notes=tuple(notes),
    )


def _read_config(path: Path, notes: list[str]) -> Mapping[str, Any]:
    content = _content(path, notes)
    if content is None:
        if not path.exists():
            notes.append("config.json is missing, so the settings are not shown.")
        return {}
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        notes.append(
            f"config.json is damaged ({error}), so the settings are not shown; remove it: `lwd up` writes a new one."
        )
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(config).__name__}: delete it; {_SETTINGS_ONLY}")
    return config


_SETTINGS_ONLY = "it notes settings for people and this report, and every verb writes its own again"


def _read_rows(paths: Sequence[Path], notes: list[str]) -> tuple[MetricRow, ...]:
    rows: list[MetricRow] = []
    for path in paths:
        # A running process may be half-way through its last line; only that one may be broken.
        content = _content(path, notes)
        if content is None:
            continue
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(MetricRow.model_validate_json(line))
            except ValidationError:
                if number < len(lines):
                    notes.append(f"metrics/{path.name} line {number} is not a metrics row and was left out.")
    return tuple(sorted(rows, key=lambda row: row.time_s))


def _content(path: Path, notes: list[str]) -> bytes | None:
    """Return what a file of the run holds; None if it cannot be read, and a note why."""
    try:
        return read_plain_file(path, max_bytes=_MAX_BYTES)
    except ConfigError as error:
        notes.append(f"{error}; it was left out.")
        return None


def _read_evaluations(path: Path, notes: list[str]) -> dict[str, EvaluationResult]:
    results = []
    for file in sorted(path.glob("*.json")):
        if not file.is_file():
            notes.append(f"{file} is not a file: remove it; it was left out.")
            continue
        results.append(load_result(file))
    order = list(METHODS)
    results.sort(key=lambda item: (order.index(item.method) if item.method in order else len(order), item.method))
    return {result.method: result for result in results}


def _read_log(store: ObjectStore) -> tuple[tuple[FleetEpisode, ...], int]:
    """Read every committed episode, in the order of the log, and the last version."""
    reader = LogReader(store)
    reader.load_index()
    reader.poll()
    snapshot = reader.snapshot
    names = {field.name for field in fields(FleetEpisode)}
    episodes = tuple(
        FleetEpisode(
            **item.entry.model_dump(include=names),
            committed_at_s=item.committed_at_s,
            snapshot=item.version,
        )
        for item in snapshot.episodes.values()
    )
    return episodes, snapshot.version


def _read_policies(store: ObjectStore) -> tuple[PolicyManifest, ...]:
    return tuple(published_policies(store))[::-1]
