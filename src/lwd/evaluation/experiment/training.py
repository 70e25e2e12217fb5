"""From the directory of a training stage to what its record keeps: speeds, means, thinned curves, the fleet's work."""

from collections.abc import Sequence

import numpy as np

from lwd.evaluation import fleet_curves
from lwd.evaluation.experiment.records import FleetRecord, Points, TrainingRecord
from lwd.evaluation.fleet_curves import Curve
from lwd.evaluation.run_data import Doubles, MetricRow, RunData

KEPT = (
    "divl/quantile_level",
    "divl/normalized_entropy",
    "divl/target_mean",
    "critic/q_mean",
    "critic/q_spread",
    "qam/deviation",
)
"""Metrics whose curves a record keeps."""
_POINTS = 60
_ENV_STEPS = "replay/env_steps"


def training_record(run: RunData, stage: str, *, wall_s: float, updates: int) -> TrainingRecord:
    """Summarise the stage of a run.

    Args:
        wall_s: of all attempts at it.
        updates: that it ended with.
    """
    rows = _last_of_each_update(run.learner_rows(stage))
    names = sorted({name for row in rows for name in row.metrics})
    values = {name: run.series(stage, name) for name in names}
    return TrainingRecord(
        wall_s=round(wall_s, 1),
        updates=updates,
        updates_per_s=_rate([float(row.update or 0) for row in rows], rows),
        env_steps_per_s=_rate([row.metrics.get(_ENV_STEPS) or 0.0 for row in rows], rows) if run.fleet else None,
        means={
            name: float(f"{series.value.mean():.5g}")
            for name, series in values.items()
            if series.value.size and not name.startswith(("replay/", "time/"))
        },
        curves={
            name: Points(x=_listed(*_binned(values[name].update)), y=_listed(*_binned(values[name].value)))
            for name in KEPT
            if name in values and values[name].value.size
        },
        fleet=_fleet(run) if run.fleet else None,
    )


def _last_of_each_update(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """A resumed learner repeats the updates after its checkpoint: the later row counts."""
    return list({row.update: row for row in rows}.values())


def _rate(counts: Sequence[float], rows: Sequence[MetricRow]) -> float | None:
    """Median increase per second between neighbouring rows: pauses between two attempts do not count."""
    times_s = np.asarray([row.time_s for row in rows])
    spans_s, increases = np.diff(times_s), np.diff(np.asarray(counts))
    usable = (spans_s > 0) & (increases > 0)
    if not usable.any():
        return None
    return float(f"{np.median(increases[usable] / spans_s[usable]):.4g}")


def _fleet(run: RunData) -> FleetRecord:
    fleet = run.fleet
    return FleetRecord(
        env_steps=sum(episode.steps for episode in fleet),
        episodes=len(fleet),
        robot_hours=round(fleet_curves.robot_hours(fleet), 4),
        interventions=sum(episode.interventions for episode in fleet),
        human_steps=sum(episode.human_steps for episode in fleet),
        success=_thinned(fleet_curves.success_curve(fleet, without_help=True)),
        interventions_per_hour=_thinned(fleet_curves.intervention_curve(fleet)),
    )


def _thinned(curve: Curve) -> Points:
    keep = np.unique(np.linspace(0, curve.hours.size - 1, min(curve.hours.size, _POINTS)).astype(int))
    return Points(
        x=_listed(*curve.hours[keep]),
        y=_listed(*curve.mean[keep]),
        low=_listed(*curve.low[keep]),
        high=_listed(*curve.high[keep]),
    )


def _binned(values: Doubles) -> list[float]:
    """Means over at most 60 neighbouring groups."""
    return [float(part.mean()) for part in np.array_split(values, min(values.size, _POINTS))]


def _listed(*values: float) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)
