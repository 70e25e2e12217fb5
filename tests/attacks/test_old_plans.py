"""Freezes that are too short for a watchdog: a real robot's plan is dropped all the same, a simulated one's is not."""

import signal
import time

import pytest

from .conftest import Measured
from .test_stop_processes import Fleet, fleet, until

__all__ = ["fleet"]
FREEZES = 10
FREEZE_S = 0.4
"""Eight control periods; a chunk has five actions."""

pytestmark = pytest.mark.attacks


@pytest.mark.parametrize("kind", ["real", "simulated"])
def test_frozen_host_for_a_moment_executes_nothing_of_its_old_plan(
    fleet: Fleet,
    measured: Measured,
    kind: str,
) -> None:
    if kind == "real":
        fleet.start_host("host", "real")
    else:
        fleet.start("host", "tests.attacks.stop_host", str(fleet.run), "host", "1", str(fleet.run / "host.journal"))
    until(lambda: len(fleet.moves(0.0, "host")) > 30)
    old = 0
    for _ in range(FREEZES):
        time.sleep(0.33)  # anywhere within a chunk
        fleet.processes["host"].send_signal(signal.SIGSTOP)
        time.sleep(FREEZE_S)
        before = fleet.journal("host")[-1]
        went_on_s = time.monotonic()
        fleet.processes["host"].send_signal(signal.SIGCONT)
        until(lambda since_s=went_on_s, plan=before.plan: any(m.plan > plan for m in fleet.moves(since_s, "host")))
        old += sum(move.what == "step" and move.plan <= before.plan for move in fleet.moves(went_on_s, "host"))
    measured(
        f"host of a {kind} robot frozen {FREEZES} times for {FREEZE_S:g} s",
        f"{old} steps of old plans",
        "1 (on its way already)" if kind == "real" else "as many as there were",
    )
    if kind == "real":
        assert old <= 1
    else:
        assert old > 1, "a simulation stands still meanwhile: its plan is as good as before"
