"""A device fails at each of its calls in turn: afterwards every device is closed, and the other robot has gone on."""

import logging
import math
from collections.abc import Iterator

import pytest

from lwd.fleet.nats_server import NatsServer

from ...lerobot.bus_arm import Breaks, config
from ...lerobot.shared_host import Cell, run_cells

CALLS = (
    "robot.connect", "robot.observe", "robot.act", "robot.disconnect",
    "camera.connect", "camera.observe", "camera.disconnect",
    "teleoperator.connect", "teleoperator.observe", "teleoperator.disconnect",
    "events.connect", "events.observe", "events.disconnect",
)  # fmt: skip
AFTER = {"connect": 0, "observe": 30, "act": 30, "disconnect": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.mark.parametrize("times", [1, math.inf], ids=["once", "for ever"])
@pytest.mark.parametrize("call", CALLS)
def test_every_device_is_closed_and_the_other_robot_goes_on(
    tmp_path, server, keep_signals, monkeypatch, caplog, call, times
):
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.02)
    monkeypatch.setattr("lwd.robots.lerobot.CONNECT_PAUSE_S", 0.02, raising=False)
    device, _, what = call.partition(".")
    breaks = Breaks(call, after=AFTER[what], times=times)
    cells = {"breaks": Cell(breaks, config()), "other": Cell(Breaks(), config())}
    broken, other = cells.values()
    at_fault: list[tuple[int, int]] = []

    def seen_enough() -> bool:
        if what == "disconnect":
            return min(broken.shared.episodes, other.shared.episodes) >= 2
        if breaks.broke >= min(times, 6) and not at_fault:
            at_fault.append((broken.shared.episodes, other.shared.episodes))
        if not at_fault or other.shared.episodes < at_fault[0][1] + 3:
            return False
        return times > 1 or broken.shared.episodes > at_fault[0][0]

    with caplog.at_level(logging.INFO):
        assert run_cells(tmp_path, server.url, cells, seen_enough)
    # It did break, and was said with the device's name.
    names = {"teleoperator": "bus_leader leader", "events": "buttons buttons"}
    said = [line for line in caplog.messages if call in line]
    assert breaks.broke
    assert any(names.get(device, "bus_arm arm") in line for line in said), said
    # Everything is closed, but for what cannot be closed.
    cannot = ["camera"] if (call, times) == ("camera.disconnect", math.inf) else []
    assert broken.open == cannot
    assert other.open == []
    # No arm was ever let go in the air; each is let go at home, where nothing is in the way of that.
    for cell in cells.values():
        assert all(abs(at) < 10.0 for where in cell.arm.bus.dropped for at in where.values())
    assert not other.arm.bus.torque
    in_the_air = math.isinf(times) and call in ("robot.observe", "robot.act", "camera.observe")
    assert broken.arm.bus.torque == (in_the_air or (call, times) == ("robot.disconnect", math.inf))
