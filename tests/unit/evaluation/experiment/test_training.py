"""What a record keeps of a training stage: speeds without pauses, means, thinned curves, the fleet's work."""

import json
from pathlib import Path

import pytest

from lwd.evaluation.experiment.training import training_record
from lwd.evaluation.run_data import read_run
from lwd.types import Outcome, Source

from ..synthetic import FleetPlan, write_fleet, write_metrics


def rows_of(run: Path, values: list[tuple[float, int, dict[str, float]]], stage: str = "offline") -> None:
    """Metrics rows of (time, update, metrics)."""
    (run / "metrics").mkdir(parents=True)
    rows = [
        {"time_s": time_s, "process": "learner", "stage": stage, "update": update, "metrics": metrics}
        for time_s, update, metrics in values
    ]
    (run / "metrics" / "learner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_pause_between_two_attempts_does_not_count(tmp_path: Path) -> None:
    level = {"divl/quantile_level": 0.4}
    # 50 updates in 5 s; then a night; the resumed learner repeats update 150.
    rows_of(tmp_path, [(0, 50, level), (5, 100, level), (10, 150, level), (30_010, 150, level), (30_015, 200, level)])
    record = training_record(read_run(tmp_path), "offline", wall_s=21.0, updates=200)
    assert record.updates_per_s == pytest.approx(10.0)
    assert record.wall_s == 21.0
    assert record.fleet is None
    assert record.env_steps_per_s is None


def test_the_later_row_of_a_repeated_update_counts(tmp_path: Path) -> None:
    rows_of(
        tmp_path, [(0, 50, {"critic/q_mean": 0.2}), (5, 100, {"critic/q_mean": 9.0}), (9, 100, {"critic/q_mean": 0.4})]
    )
    record = training_record(read_run(tmp_path), "offline", wall_s=9.0, updates=100)
    assert record.means["critic/q_mean"] == pytest.approx(0.3)
    assert record.curves["critic/q_mean"].x == (50.0, 100.0)
    assert record.curves["critic/q_mean"].y == (0.2, 0.4)


def test_one_row_has_no_speed(tmp_path: Path) -> None:
    rows_of(tmp_path, [(0, 50, {"loss/flow": 1.0})])
    record = training_record(read_run(tmp_path), "offline", wall_s=9.0, updates=50)
    assert record.updates_per_s is None
    assert record.curves == {}


def test_long_curves_are_thinned_to_means(tmp_path: Path) -> None:
    write_metrics(tmp_path, "offline", ["divl/quantile_level"], rows=600)
    record = training_record(read_run(tmp_path), "offline", wall_s=1.0, updates=30_000)
    curve = record.curves["divl/quantile_level"]
    assert len(curve.x) == len(curve.y) == 60
    # Ten rows of 50 updates each: their mean lies in the middle.
    assert curve.x[0] == pytest.approx(275.0)
    assert record.means["divl/quantile_level"] == pytest.approx(sum(curve.y) / 60, rel=1e-3)


def test_the_fleets_work_and_nothing_of_the_offline_data(tmp_path: Path) -> None:
    plans = [FleetPlan(outcome=Outcome.SUCCESS, source=Source.DEMONSTRATION)]
    plans += [
        FleetPlan(
            outcome=Outcome.SUCCESS if place % 2 else Outcome.TIME_LIMIT, steps=360, human_steps=36, interventions=1
        )
        for place in range(100)
    ]
    write_fleet(tmp_path, plans, control_hz=20.0)
    rows_of(
        tmp_path,
        [(float(5 * row), 50 * row, {"replay/env_steps": 1_800.0 * row, "time/update_s": 1.0}) for row in range(1, 20)],
        stage="online",
    )
    record = training_record(read_run(tmp_path), "online", wall_s=100.0, updates=950)
    assert record.env_steps_per_s == pytest.approx(360.0)
    assert record.means == {}
    fleet = record.fleet
    assert fleet is not None
    assert (fleet.episodes, fleet.env_steps, fleet.interventions, fleet.human_steps) == (100, 36_000, 100, 3_600)
    assert fleet.robot_hours == pytest.approx(0.5)
    # Every episode was helped, so the policy alone never succeeded: one intervention per 18 s.
    assert set(fleet.success.y) == {0.0}
    assert fleet.interventions_per_hour.y[-1] == pytest.approx(200.0)
    assert fleet.success.x[-1] == pytest.approx(0.5)
