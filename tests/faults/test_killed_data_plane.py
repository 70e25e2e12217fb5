"""kill -9 of everything, with an S3 store: every episode of 64 writers is committed exactly once, byte for byte."""

import time
from pathlib import Path

import pytest

from .audit import assert_exactly_once
from .kills import Killer, Kind, recovery_table
from .servers import DataPlane

PROCESSES, ROBOTS = 8, 8
PATIENCE_S = 900.0
"""For machines that are busy with something else."""


def run_kills(
    run: Path, counts: dict[Kind, int], *, episodes: int, rate: float, seed: int, delete_stream: bool = False
) -> None:
    """Let 64 writers write while processes are killed, and check what is left.

    Args:
        episodes: per writer.
        rate: episodes per second of all writers while they run.
    """
    total = PROCESSES * ROBOTS * episodes
    plane = DataPlane(run, writers=PROCESSES, robots=ROBOTS, episodes=episodes, period_s=PROCESSES / rate)
    started_s = time.monotonic()
    with plane:
        killer = Killer(plane, counts, within_s=0.9 * total / rate, seed=seed)
        try:
            while not (plane.finished and killer.done):
                plane.tend()
                killer.step()
                if delete_stream and sum(map(len, plane.journal().values())) > total / 2:
                    delete_stream = not plane.delete_stream()
                assert time.monotonic() - started_s < PATIENCE_S, f"seed {seed}: not everything is committed"
                time.sleep(0.05)
            took_s = time.monotonic() - started_s
            committed = assert_exactly_once(plane.object_store(), plane.journal(), plane.spools, episodes=total)
        except BaseException:
            print(f"seed {seed}, killed: {killer.kills}\n{plane.logs()}")
            raise
    assert not delete_stream
    assert {kind: sum(kill.kind == kind for kill in killer.kills) for kind in counts} == counts
    print(f"\nseed {seed}: {total} episodes in {took_s:.0f} s, {committed[-1].version} versions")
    print(recovery_table(killer.kills, committed, ROBOTS))


def test_1024_episodes_survive_kills_of_everything(tmp_path):
    counts: dict[Kind, int] = {"store": 2, "coordinator": 3, "bus": 3, "writer": 4}
    run_kills(tmp_path, counts, episodes=16, rate=30.0, seed=1, delete_stream=True)


@pytest.mark.faults
@pytest.mark.parametrize("delete_stream", [False, True])
def test_10048_episodes_survive_50_kills(tmp_path, delete_stream):
    counts: dict[Kind, int] = {"store": 10, "coordinator": 13, "bus": 13, "writer": 14}
    run_kills(tmp_path, counts, episodes=157, rate=50.0, seed=2 + delete_stream, delete_stream=delete_stream)
