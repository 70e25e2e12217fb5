import json
from pathlib import Path

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.evaluation import fleet_curves
from lwd.evaluation.run_data import read_run
from lwd.evaluation.statistics import wilson_interval
from lwd.types import Outcome, Source

from .synthetic import FleetPlan, evaluation, write_fleet, write_metrics, write_policies


def test_a_run_reads_back_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"seed": 3}')
    evaluation("lwd_online", {"open_drawer": 0.9}).save(tmp_path / "eval" / "lwd_online.json")
    evaluation("sft", {"open_drawer": 0.5}).save(tmp_path / "eval" / "sft.json")
    evaluation("ours", {"open_drawer": 0.5}).save(tmp_path / "eval" / "ours.json")
    write_metrics(tmp_path, "online", ["loss/value"], rows=3)
    demonstration = FleetPlan(outcome=Outcome.SUCCESS, source=Source.DEMONSTRATION, policy_version=-1)
    write_fleet(tmp_path, [demonstration, FleetPlan(outcome=Outcome.FAILURE, human_steps=7)])
    run = read_run(tmp_path)
    assert run.config == {"seed": 3}
    assert list(run.evaluations) == ["sft", "lwd_online", "ours"]
    assert run.series("online", "loss/value").update.tolist() == [50.0, 100.0, 150.0]
    assert run.series("offline", "loss/value").update.size == 0
    assert run.snapshots == 2
    assert [episode.source for episode in run.episodes] == [Source.DEMONSTRATION, Source.FLEET]
    (fleet,) = run.fleet
    assert (fleet.human_steps, fleet.snapshot, fleet.robot_id) == (7, 2, "robot-1")
    assert fleet.hours == pytest.approx(100 / 10 / 3600)
    assert run.notes == ()


def test_a_log_longer_than_its_index_is_read_whole(tmp_path: Path) -> None:
    write_fleet(tmp_path, [FleetPlan(outcome=Outcome.SUCCESS)] * 300)
    run = read_run(tmp_path)
    assert len(run.episodes) == 300
    assert [episode.snapshot for episode in run.episodes] == list(range(1, 301))


def test_a_half_written_last_line_is_no_error_and_a_broken_one_is_noted(tmp_path: Path) -> None:
    write_metrics(tmp_path, "sft", ["loss/flow"], rows=2)
    path = tmp_path / "metrics" / "learner.jsonl"
    path.write_text(path.read_text() + '{"time_s": 12')
    assert len(read_run(tmp_path).rows) == 2
    assert not [note for note in read_run(tmp_path).notes if "learner" in note]
    path.write_text("not json\n" + path.read_text())
    assert len(read_run(tmp_path).rows) == 2
    assert any("learner.jsonl line 1" in note for note in read_run(tmp_path).notes)


def test_numbers_that_are_not_finite_do_not_reach_a_series(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    rows = [
        {"time_s": k, "process": "learner", "stage": "sft", "update": k, "metrics": {"loss/flow": value}}
        for k, value in enumerate([1.0, float("nan"), None, 3.0])
    ]
    (directory / "learner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(tmp_path).series("sft", "loss/flow").value.tolist() == [1.0, 3.0]


def test_updates_that_a_resume_repeats_count_once(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    updates = [(50, 1.0), (100, 2.0), (150, 3.0), (100, 20.0), (150, 30.0), (200, 40.0)]
    rows = [
        {
            "time_s": time,
            "process": "learner",
            "stage": "sft",
            "update": update,
            "metrics": {"loss/flow": value},
        }
        for time, (update, value) in enumerate(updates)
    ]
    (directory / "learner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    series = read_run(tmp_path).series("sft", "loss/flow")
    assert series.update.tolist() == [50, 100, 150, 200]
    assert series.value.tolist() == [1, 20, 30, 40]


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        read_run(tmp_path / "missing")
    with pytest.raises(ConfigError, match="is it the right one"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="must hold a JSON object"):
        read_run(tmp_path)


def test_success_curve_rolls_over_known_outcomes_and_fleet_hours(tmp_path: Path) -> None:
    won = [FleetPlan(outcome=Outcome.SUCCESS, human_steps=0 if k % 2 else 5) for k in range(30)]
    lost = [FleetPlan(outcome=Outcome.TIME_LIMIT)] * 20
    cut = [FleetPlan(outcome=Outcome.TRUNCATED)] * 10
    write_fleet(tmp_path, [*lost, *cut, *won])
    fleet = read_run(tmp_path).fleet
    curve = fleet_curves.success_curve(fleet)
    assert curve.window == 20
    assert curve.mean.size == 31
    assert (curve.mean[0], curve.mean[-1]) == (0.0, 1.0)
    # The first window ends with the 20th loss, the last with the last episode of all 60.
    np.testing.assert_allclose(curve.hours[[0, -1]], [20 * 10 / 3600, 60 * 10 / 3600])
    assert curve.high[0] == pytest.approx(wilson_interval(0, 20).high)
    alone = fleet_curves.success_curve(fleet, without_help=True)
    assert alone.mean[-1] == 0.5


def test_interventions_are_counted_per_robot_hour(tmp_path: Path) -> None:
    # 36 s each: 100 episodes are one robot hour; two interventions in every episode.
    write_fleet(tmp_path, [FleetPlan(outcome=Outcome.SUCCESS, steps=360, interventions=2, human_steps=36)] * 24)
    fleet = read_run(tmp_path).fleet
    curve = fleet_curves.intervention_curve(fleet)
    np.testing.assert_allclose(curve.mean, 200.0)
    np.testing.assert_allclose(curve.high - curve.mean, 1.96 * np.sqrt(40) / 0.2)
    np.testing.assert_allclose(fleet_curves.human_share_curve(fleet).mean, 0.1)
    assert fleet_curves.robot_hours(fleet) == pytest.approx(0.24)


def test_version_lag_and_publish_latency_follow_the_manifests(tmp_path: Path) -> None:
    write_policies(tmp_path, [1_000.0 + 5 * version for version in range(10)])
    plans = [  # each episode starts 10 s before its commit; robots alternate
        FleetPlan(outcome=Outcome.SUCCESS, committed_at_s=990, policy_version=-1),  # before the first policy
        FleetPlan(outcome=Outcome.SUCCESS, committed_at_s=1_012, policy_version=0),
        FleetPlan(outcome=Outcome.SUCCESS, committed_at_s=1_030, policy_version=3),
        FleetPlan(outcome=Outcome.SUCCESS, committed_at_s=1_040, policy_version=0),
        FleetPlan(outcome=Outcome.SUCCESS, committed_at_s=1_044, policy_version=9),  # clocks differ
    ]
    write_fleet(tmp_path, plans)
    run = read_run(tmp_path)
    assert [policy.version for policy in run.policies] == list(range(10))
    assert fleet_curves.version_lag(run).lag.tolist() == [2.0, 3.0, 8.0, 0.0]
    # Version 0 on robot-1: 1002 - 1000 (its later episode does not count); 3 on robot-0: 1020 - 1015.
    assert sorted(fleet_curves.publish_to_action_s(run)) == [0.0, 2.0, 5.0]


def test_latencies_follow_the_timestamps(tmp_path: Path) -> None:
    # Row k is logged at 1000 + 5 k on snapshot 1 + k; episode k is committed as snapshot k + 1.
    write_metrics(tmp_path, "online", ["loss/value"], rows=3, start_s=1_000, every_s=5, snapshot_per_row=1)
    plans = [FleetPlan(outcome=Outcome.SUCCESS, committed_at_s=999.0 + 2 * k) for k in range(4)]
    write_fleet(tmp_path, plans)
    run = read_run(tmp_path)
    np.testing.assert_allclose(fleet_curves.upload_to_commit_s(run), 0.5)
    # Committed at 999, 1001, 1003; seen at 1000, 1005, 1010; snapshot 4 was never trained on.
    np.testing.assert_allclose(fleet_curves.commit_to_learner_s(run), [1.0, 4.0, 7.0])
    latency = fleet_curves.quantiles(fleet_curves.commit_to_learner_s(run))
    assert latency is not None
    assert (latency.count, latency.p50_s) == (3, 4.0)
    assert fleet_curves.quantiles(np.zeros(0)) is None
