"""Clocks that are an hour off and jump: order and exactly-once come from the log, never from a clock."""

import itertools
import time

from .audit import assert_exactly_once
from .servers import DataPlane
from .writers import robot_ids

HOUR_S = 3600.0
WRITERS, ROBOTS, EPISODES = 3, 4, 40
PATIENCE_S = 240.0
STALL_S = 30.0
"""Generous for a busy machine; what waits for a clock would wait for an hour."""


def test_clocks_that_are_an_hour_off_and_jump_change_nothing(tmp_path):
    clocks = {
        "coordinator": [(0.0, HOUR_S), (4.0, -HOUR_S)],
        "writer-0": [(0.0, 0.0), (4.0, HOUR_S)],
        "writer-1": [(0.0, -HOUR_S), (4.0, HOUR_S)],
    }
    total = WRITERS * ROBOTS * EPISODES
    plane = DataPlane(
        tmp_path,
        writers=WRITERS,
        robots=ROBOTS,
        episodes=EPISODES,
        period_s=0.05,
        directory=tmp_path / "store",
        clocks=clocks,
    )
    deadline_s = time.monotonic() + PATIENCE_S
    with plane:
        while not plane.finished:
            assert time.monotonic() < deadline_s, plane.logs()
            plane.tend()
            time.sleep(0.05)
        committed = assert_exactly_once(plane.object_store(), plane.journal(), plane.spools, episodes=total)
    for name in plane.writers:
        for robot_id in robot_ids(name, ROBOTS):
            ids = [item.entry.episode_id for item in committed if item.entry.robot_id == robot_id]
            assert ids == sorted(ids)
    # The clocks were wrong, and they jumped within the log.
    now_s = time.time()
    errors_s = {
        "coordinator": [item.committed_at_s - now_s for item in committed],
        "writer-1": [item.entry.uploaded_at_s - now_s for item in committed if "writer-1" in item.entry.robot_id],
    }
    for times_s in errors_s.values():
        assert min(times_s) < -0.5 * HOUR_S
        assert max(times_s) > 0.5 * HOUR_S
    # Nobody waited for a clock: by the file system's time, commits came all the time.
    written_s = [item.modified_s for item in plane.object_store().list("log")]
    assert max(later - earlier for earlier, later in itertools.pairwise(written_s)) < STALL_S
