"""One lost packet of the leader arm is a fault of that robot, and no motor is let go by it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from lwd.fleet.nats_server import NatsServer

from ...lerobot.bus_arm import Breaks, config
from ...lerobot.shared_host import Cell, run_cells


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(autouse=True)
def short_rests(monkeypatch):
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.05)
    monkeypatch.setattr("lwd.robots.lerobot.CONNECT_PAUSE_S", 0.01, raising=False)


def went_on(cell: Cell, steps: int = 30):
    """Whether the arm was sent so many actions after its fault."""
    at_fault: list[int] = []

    def seen() -> bool:
        if cell.breaks.broke and not at_fault:
            at_fault.append(cell.breaks.counts["robot.act"])
        return bool(at_fault) and cell.breaks.counts["robot.act"] > at_fault[0] + steps

    return seen


@pytest.mark.parametrize("call", ["teleoperator.observe", "events.observe", "teleoperator.connect", "events.connect"])
def test_the_arm_holds_rests_and_goes_on(tmp_path, server, keep_signals, caplog, call):
    cell = Cell(Breaks(call, after=25 * call.endswith("observe"), times=1), config())
    with caplog.at_level(logging.INFO):
        assert run_cells(tmp_path, server.url, {"arm": cell}, went_on(cell), shared=False)
    assert f"{call}: there is no status packet" in caplog.text
    # The device was connected anew, the arm was not.
    owner = call.partition(".")[0]
    assert cell.breaks.counts[f"{owner}.connect"] == 2
    assert cell.breaks.counts["robot.connect"] == 1
    # It was let go once, at home, when the host ended.
    assert cell.open == []
    assert not cell.arm.bus.torque
    assert [max(map(abs, where.values())) for where in cell.arm.bus.dropped] == [pytest.approx(0.0, abs=4.5)]


def test_what_the_motors_do_after_a_fault_is_a_setting(tmp_path, server, keep_signals):
    cell = Cell(Breaks("teleoperator.observe", after=25, times=1), config(on_fault="release"))
    assert run_cells(tmp_path, server.url, {"arm": cell}, went_on(cell), shared=False)
    assert len(cell.arm.bus.dropped) == 2
    assert cell.breaks.counts["robot.connect"] == 2
    assert cell.open == []


def test_an_arm_that_failed_itself_holds_waits_for_a_person_and_is_not_let_go_on_exit(
    tmp_path, server, keep_signals, caplog
):
    cell = Cell(Breaks("robot.observe", after=25, times=1), config())
    after: list[float] = []

    def a_while_after() -> bool:
        if cell.breaks.broke and not after:
            after.append(time.monotonic() + 0.5)
        return bool(after) and time.monotonic() > after[0]

    assert run_cells(tmp_path, server.url, {"arm": cell}, a_while_after, shared=False)
    assert "robot arm waits for a person" in caplog.text
    assert cell.open == []
    assert cell.arm.bus.torque
    assert cell.arm.bus.dropped == []
    assert "bus_arm arm is left holding" in caplog.text


def test_a_second_signal_ends_the_way_home(tmp_path, server, keep_signals, caplog):
    cell = Cell(Breaks(), config(home_s=0.05))
    slow = config(home_s=20.0)
    begun_s: list[float] = []

    def lifted() -> bool:
        if cell.breaks.counts["robot.act"] < 20:
            return False
        # The way home at the end is slow; a second signal comes on it.
        cell.robot._config = slow
        begun_s.append(time.monotonic())
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        return True

    assert run_cells(tmp_path, server.url, {"arm": cell}, lifted, shared=False)
    assert time.monotonic() - begun_s[0] < 10.0
    assert "bus_arm holds on the way home" in caplog.text
    assert cell.open == []
    assert cell.arm.bus.torque
    assert cell.arm.bus.dropped == []


def test_an_arm_that_somebody_stopped_does_not_go_home_when_its_host_ends(tmp_path, server, keep_signals):
    cell = Cell(Breaks(), config())
    stopped: list[float] = []

    def stopped_for_a_while() -> bool:
        if not stopped and cell.breaks.counts["robot.act"] > 20:
            (tmp_path / "stop").mkdir(exist_ok=True)
            (tmp_path / "stop" / "button").touch()
            stopped.append(time.monotonic() + 1.0)
        return bool(stopped) and time.monotonic() > stopped[0]

    assert run_cells(tmp_path, server.url, {"arm": cell}, stopped_for_a_while, shared=False)
    assert max(map(abs, cell.arm.bus.positions.values())) > 30.0
    assert cell.open == []
    assert cell.arm.bus.torque
    assert cell.arm.bus.dropped == []
