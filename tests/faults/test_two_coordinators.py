"""Two coordinators at once, each stopped for seconds and waking up with an old view: the log fences them."""

import random
import signal
import time
from collections import Counter

import pytest

from lwd.data.log import LogReader

from .audit import assert_exactly_once
from .servers import DataPlane

WRITERS, ROBOTS, EPISODES = 4, 8, 64
PATIENCE_S = 600.0


@pytest.mark.faults
def test_two_coordinators_that_freeze_in_turn_commit_everything_once(tmp_path):
    total = WRITERS * ROBOTS * EPISODES
    plane = DataPlane(
        tmp_path,
        writers=WRITERS,
        robots=ROBOTS,
        episodes=EPISODES,
        period_s=WRITERS / 60,
        directory=tmp_path / "store",
        coordinators=2,
    )
    chance = random.Random(4)
    frozen: list[int] = []
    deadline_s = time.monotonic() + PATIENCE_S
    change_at_s = time.monotonic() + 5.0
    with plane:
        # The second one starts later: it gets an epoch of its own by which the log tells them apart.
        second = plane.member("coordinator-1")
        second.start_at_s = float("inf")
        while not plane.finished:
            if any(plane.object_store().list("log")):
                second.start_at_s = 0.0
            assert time.monotonic() < deadline_s, plane.logs()
            plane.tend()
            if time.monotonic() >= change_at_s:
                # The other one: each wakes up while its rival is asleep, or has just fallen asleep.
                name = ("coordinator", "coordinator-1")[len(frozen) % 2]
                process = plane.member(name).process
                if process is not None:
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(chance.uniform(0.05, 3.0))
                    process.send_signal(signal.SIGCONT)
                    frozen.append(process.pid)
                change_at_s = time.monotonic() + chance.uniform(0.05, 1.0)
            time.sleep(0.01)
        committed = assert_exactly_once(plane.object_store(), plane.journal(), plane.spools, episodes=total)
    lost = sum(plane.log_of(name).count("lost version") for name in ("coordinator", "coordinator-1"))
    epochs = Counter(entry.epoch for entry in LogReader(plane.object_store()).poll())
    print(f"\n{len(committed)} episodes, {len(frozen)} freezes, {lost} lost races, versions by epoch: {dict(epochs)}")
    assert len(epochs) == 2
    assert min(epochs.values()) > 10
    assert len(frozen) > 10
    assert lost > 0
