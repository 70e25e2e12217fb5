"""The data plane's benchmarks run on real processes, and what they count is right. (Numbers: `make bench-data`.)"""

import json
import re

import numpy as np
import pytest
from benchmarks import data_plane
from benchmarks.fleet_plan import Phase, Plan
from benchmarks.fleet_run import PhaseResult
from benchmarks.knee import KneeStep, knee_entries
from benchmarks.peers import Peer, PeerUnavailable, measure_peer

from lwd.recipes.bench_result import BenchEntry, write_entries

PHASE = Phase(name="phase", number=1, period_s=10.0, duration_s=25.0, begins_at_s=1000.0)


def step(offered_per_s: float, *, p99_s: float = 0.1, drained_per_s: float | None = None, lost: int = 0) -> KneeStep:
    result = PhaseResult(
        phase=PHASE,
        produced=int(offered_per_s * PHASE.duration_s),
        lost=lost,
        duplicates=0,
        episode_s=np.full(100, p99_s),
        policy_s=np.zeros(0),
        policies=0,
        late_s=0.0,
        snapshots=1,
        drained_per_s=offered_per_s if drained_per_s is None else drained_per_s,
    )
    return KneeStep(offered_per_s=offered_per_s, result=result)


def test_a_robot_ends_one_episode_per_period_and_robots_are_out_of_step():
    plan = Plan(run="run", robots=50, store_url="store")
    schedule = plan.schedule(PHASE)
    assert schedule == plan.schedule(PHASE)
    assert len({due.episode_id for due in schedule}) == len(schedule)
    for robot in range(50):
        times_s = [due.at_s for due in schedule if due.robot == robot]
        assert len(times_s) in (2, 3)
        assert np.diff(times_s) == pytest.approx(10.0)
        assert 1000.0 <= times_s[0] < 1010.0
    first_s = [min(due.at_s for due in schedule if due.robot == robot) for robot in range(50)]
    assert np.ptp(first_s) > 5.0


def test_every_robot_has_one_host_and_every_host_one_process():
    plan = Plan(run="run", robots=100, store_url="store", robots_per_host=16, processes=3)
    hosts = [host for process in range(plan.host_processes) for host in plan.hosts_of(process)]
    assert sorted(hosts) == list(range(7))
    assert sorted(robot for host in hosts for robot in plan.robots_of(host)) == list(range(100))


def test_the_knee_is_the_highest_load_that_was_carried():
    steps = [step(10.0), step(20.0), step(40.0, p99_s=6.0)]
    assert [each.carried for each in steps] == [True, True, False]
    assert knee_entries("directory", steps)["data/knee/directory"].value == 20.0
    assert not step(10.0, drained_per_s=8.0).carried
    assert not step(10.0, lost=1).carried
    assert knee_entries("directory", [step(10.0, lost=1)])["data/knee/directory"].value == 0.0


def test_a_peer_that_cannot_be_installed_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    peer = Peer(name="none", title="None", script="none.py", requirements=(), python="3.99")
    with pytest.raises(PeerUnavailable, match=re.escape("no Python 3.99")):
        measure_peer(peer, [])


def test_results_of_other_benchmarks_stay(tmp_path):
    def entry(value: float) -> BenchEntry:
        return BenchEntry(value=value, unit="ms", baseline="something", ratio=1.0)

    path = tmp_path / "bench.json"
    write_entries(path, {"learner/a": entry(1.0), "data/a": entry(1.0), "data/b": entry(1.0)})
    write_entries(path, {"data/a": entry(2.0)})
    found = json.loads(path.read_text())
    assert {name: value["value"] for name, value in found.items()} == {"learner/a": 1.0, "data/a": 2.0}


def test_everything_is_measured_at_tiny_size(tmp_path):
    entries = data_plane.run(data_plane.QUICK, tmp_path)
    levels = ("p50", "p99")
    expected = {
        f"data/commit/directory/{n}/{what}-{p}" for n in (3, 6) for what in ("append", "process") for p in levels
    }
    expected |= {
        f"data/fleet/4/{phase}/{what}-{p}"
        for phase in ("paper-rate", "burst")
        for what in ("episode", "policy")
        for p in levels
    }
    expected |= {f"data/pointer/8/{p}" for p in levels}
    expected |= {"data/knee/directory"}
    kinds = ("state", "state-prefetcher", "state-2-threads", "images", "images-prefetcher", "images-2-threads")
    expected |= {f"data/sampling/{kind}" for kind in kinds}
    assert set(entries) == expected
    # Every episode and every policy arrived: what is lost has an infinite latency.
    assert all(np.isfinite([entry.value, entry.ratio]).all() for entry in entries.values())
    # A machine that is busy with something else may carry less than the least rate that is tried.
    assert {name for name, entry in entries.items() if entry.value <= 0} <= {"data/knee/directory"}
    assert set(json.loads((tmp_path / "bench.json").read_text())) == expected
    page = (tmp_path / "data_plane.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
