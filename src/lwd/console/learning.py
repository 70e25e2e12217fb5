"""The learning view: whether the fleet gets better, on which tasks, with which policies, and how fast data flows."""

import threading
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from lwd.data.quarantine import read_quarantine
from lwd.data.store import ObjectStore
from lwd.evaluation import fleet_curves
from lwd.evaluation.fleet_curves import Curve
from lwd.evaluation.run_data import Doubles, FleetEpisode, RunData, read_run
from lwd.recipes.run_directory import RunDirectory

_KEEP_S = 5.0
_POINTS = 300
_SERIES = {
    "loss/value": "value loss",
    "loss/critic": "critic loss",
    "loss/actor": "actor loss",
    "divl/quantile_level": "quantile level",
    "divl/normalized_entropy": "normalised entropy",
    "critic/q_mean": "mean Q",
    "qam/temperature": "temperature",
    "replay/update_to_data": "updates per fleet step",
}


class LearningView:
    """Reads the run again at most every five seconds, however many look."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._read_s = -np.inf
        self._content: dict[str, Any] = {}

    def content(self) -> dict[str, Any]:
        """Return the view as JSON; blocks while it reads.

        Raises:
            ConfigError: if the run is empty.
            StoreError: if the store cannot be read.
        """
        with self._lock:
            if time.monotonic() - self._read_s > _KEEP_S:
                self._content = self._build()
                self._read_s = time.monotonic()
            return self._content

    def _build(self) -> dict[str, Any]:
        store = self._run.store()
        run = read_run(self._run.path, store)
        fleet = run.fleet
        tasks = sorted({episode.task for episode in fleet})
        return {
            "fleet_hours": fleet_curves.robot_hours(fleet),
            "episodes": len(fleet),
            "snapshots": run.snapshots,
            "success": _points(fleet_curves.success_curve(fleet)),
            "interventions_per_hour": _points(fleet_curves.intervention_curve(fleet)),
            "human_share": _points(fleet_curves.human_share_curve(fleet)),
            "tasks": [_task(task, [episode for episode in fleet if episode.task == task]) for task in tasks],
            "series": [
                {"name": name, "title": title, **_thinned(series.update, series.value)}
                for name, title in _SERIES.items()
                if (series := run.series("online", name)).update.size
            ],
            "versions": _versions(run),
            "latencies": {
                name: None if (found := fleet_curves.quantiles(seconds)) is None else asdict(found)
                for name, seconds in (
                    ("upload to commit", fleet_curves.upload_to_commit_s(run)),
                    ("commit to learner", fleet_curves.commit_to_learner_s(run)),
                    ("policy to robot", fleet_curves.publish_to_action_s(run)),
                )
            },
            "quarantine": [record.model_dump(mode="json") for record in read_quarantine(store)][-100:],
            "storage_bytes": {
                "episodes": _bytes(store, "episodes"),
                "policies": _bytes(store, "policies"),
                "log": _bytes(store, "log") + _bytes(store, "index"),
            },
            "notes": list(run.notes),
        }


def _bytes(store: ObjectStore, prefix: str) -> int:
    return sum(item.size_bytes for item in store.list(prefix))


def _task(task: str, episodes: list[FleetEpisode]) -> dict[str, Any]:
    rate = fleet_curves.success(episodes)
    outcomes = Counter(episode.outcome.value for episode in episodes)
    return {
        "task": task,
        "episodes": len(episodes),
        "success": _finite(rate.mean),
        "low": _finite(rate.low),
        "high": _finite(rate.high),
        "outcomes": dict(outcomes),
        "curve": _points(fleet_curves.success_curve(episodes)),
    }


def _points(curve: Curve) -> dict[str, Any]:
    at = _chosen(len(curve.hours))
    return {
        "window": curve.window,
        **{name: _list(getattr(curve, name)[at]) for name in ("hours", "mean", "low", "high")},
    }


def _thinned(x: Doubles, y: Doubles) -> dict[str, list[float | None]]:
    at = _chosen(len(x))
    return {"x": _list(x[at]), "y": _list(y[at])}


def _versions(run: RunData) -> dict[str, Any]:
    committed: dict[int, float] = {}
    for episode in run.episodes:
        committed[episode.snapshot] = episode.committed_at_s
    versions = np.asarray(sorted(committed), dtype=np.float64)
    at = _chosen(len(versions))
    return {
        "policies": [
            {"version": policy.version, "time_s": policy.published_at_s, "snapshot": policy.snapshot}
            for policy in run.policies
        ],
        "snapshots": [{"version": int(v), "time_s": committed[int(v)]} for v in versions[at]],
    }


def _chosen(count: int) -> Any:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, _POINTS)).astype(int)) if count else slice(0, 0)


def _list(values: Doubles) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
