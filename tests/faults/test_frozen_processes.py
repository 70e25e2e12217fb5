"""SIGSTOP for 45 s, on a coordinator and on a robot host: the supervisor names them, and kills neither."""

import os
import signal
import time

import pytest

from .test_fleet_crashes import PATIENCE_S, assert_exactly_once, fleet, wait_until  # noqa: F401

FROZEN_S = 45.0


@pytest.mark.faults
def test_frozen_processes_are_named_and_go_on(fleet):  # noqa: F811
    fleet.start()
    wait_until(lambda: len(fleet.snapshot().episodes) > 5, PATIENCE_S, fleet)
    pids = fleet.pids()
    frozen = {name: pids[name] for name in ("coordinator", "host-a")}
    for pid in frozen.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(FROZEN_S)
    finally:
        # First of all: a stopped process does not even end.
        said = (fleet.run / "supervisor.log").read_text()
        for pid in frozen.values():
            os.kill(pid, signal.SIGCONT)
    for name, pid in frozen.items():
        assert f"{name} (pid {pid}) is frozen: no sign of life from its main loop for 20 s; it is stopped" in said
        # At growing intervals.
        assert said.count(f"{name} (pid {pid}) is frozen") == 2
    assert f"host-b (pid {pids['host-b']}) is frozen" not in said
    before = len(fleet.snapshot().episodes)
    wait_until(lambda: len(fleet.snapshot().episodes) > before + 20, PATIENCE_S, fleet)
    wait_until(
        lambda: all(f"{name} goes on" in (fleet.run / "supervisor.log").read_text() for name in frozen),
        PATIENCE_S,
        fleet,
    )
    assert fleet.pids() == pids
    fleet.stop()
    assert_exactly_once(fleet)
