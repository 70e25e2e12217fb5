"""Every device is closed on every way out, also where another one fails at it."""

import contextlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lwd.errors import ConfigError, OperatorFault
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.operators.lerobot import LeRobotOperator

from ...lerobot.bus_arm import ARM, Breaks, BusLeader, BusLeaderConfig, Buttons, ButtonsConfig, config
from ...lerobot.shared_host import Cell

ROOT = Path(__file__).parents[3]


def desk_devices(breaks: Breaks) -> tuple[BusLeader, Buttons, LeRobotOperator]:
    leader = BusLeader(BusLeaderConfig(id="leader", breaks=breaks))
    buttons = Buttons(ButtonsConfig(id="buttons", breaks=breaks))
    return leader, buttons, LeRobotOperator(leader, ARM, events=buttons)


def test_a_leader_that_cannot_be_disconnected_does_not_keep_the_buttons_open(caplog):
    leader, buttons, operator = desk_devices(Breaks("teleoperator.disconnect", times=math.inf))
    operator.connect()
    assert leader.bus.is_connected
    assert buttons.bus.is_connected
    operator.close()
    assert not leader.bus.is_connected  # its torque could not be turned off, its port is closed
    assert not buttons.bus.is_connected
    assert "bus_leader leader cannot be disconnected (ConnectionError: teleoperator.disconnect" in caplog.text


def test_buttons_that_cannot_be_connected_do_not_keep_the_leader_open():
    leader, buttons, operator = desk_devices(Breaks("events.connect", times=math.inf))
    with contextlib.closing(operator), pytest.raises(OperatorFault, match=r"buttons buttons cannot connect"):
        operator.connect()
    assert not leader.bus.is_connected
    assert not buttons.bus.is_connected


def test_a_device_is_connected_when_it_is_needed_and_not_when_it_is_made():
    leader, _, operator = desk_devices(Breaks())
    assert not leader.bus.is_connected
    operator.close()


def test_a_host_whose_second_robot_cannot_be_made_closes_the_first(tmp_path, keep_signals):
    cell = Cell(Breaks(), config())
    cell.arm.connect(calibrate=False)
    cell.operator.connect()

    def make(spec: RobotSpec):
        if spec.robot_id == "b":
            raise ConfigError("the section `robot` is wrong")
        return cell.shared, cell.operator

    with pytest.raises(ConfigError, match="section `robot`"):
        run_robot_host(
            RobotHostConfig(
                run=tmp_path, host_id="host", robots=(RobotSpec(robot_id="a"), RobotSpec(robot_id="b")),
                bus=BusConfig(urls=("nats://127.0.0.1:1",)),
            ),
            make=make,
            tasks=config().tasks_at(ARM.control_hz),
        )  # fmt: skip
    assert cell.open == []


DESK = """
import asyncio, sys, time, types
# Another package brings a `tests` of its own.
sys.modules["tests"] = tests = types.ModuleType("tests")
tests.__path__ = ["tests"]
from lwd.cli import operator
from lwd.robots import lerobot_devices
from tests.lerobot.bus_arm import ARM, BusLeader, BusLeaderConfig

leader = BusLeader(BusLeaderConfig(id="leader"))
lerobot_devices.make_teleoperator = lambda config: leader

closed = BusLeader.disconnect.__wrapped__
def disconnect(self):
    if self.bus.is_connected:
        print("closing", flush=True)
        time.sleep(1.0)
        closed(self)
        print("closed", flush=True)
BusLeader.disconnect = disconnect

async def sit_down(bus, name, robot_id, connect):
    with connect(ARM) as it:
        it.connect()
        print("connected", flush=True)
        await asyncio.sleep(60)
operator._sit_down = sit_down
try:
    asyncio.run(operator._teleoperate(None, "ada", "arm", {"type": "bus_leader", "id": "leader"}, None))
except asyncio.CancelledError:
    print("cancelled", flush=True)
print("open", leader.bus.is_connected, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_second_signal_does_not_interrupt_the_closing_of_an_operators_device(number):
    process = subprocess.Popen(
        [sys.executable, "-c", DESK], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        process.send_signal(number)
        assert process.stdout.readline() == "closing\n"
        process.send_signal(number)
        assert process.stdout.read() == "closed\ncancelled\nopen False\n"
    finally:
        process.kill()
        process.communicate()


def test_a_desk_connects_a_device_anew_that_lost_a_packet():
    """`lwd operator` asks like this; the fleet's part of it is in tests/unit/fleet/test_desk.py."""
    breaks = Breaks("teleoperator.observe", times=1)
    leader, _, operator = desk_devices(breaks)
    operator.connect()
    with pytest.raises(OperatorFault, match="bus_leader leader cannot say what to do"):
        operator.poll(None)
    operator.connect()
    assert breaks.counts["teleoperator.connect"] == 2
    assert breaks.counts["events.connect"] == 1
    operator.poll(None)
    operator.close()
    assert not leader.bus.is_connected
