"""LeRobot's own SO-101 driver, with simulated servos at its serial port: cameras and packets that are lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lwd.errors import OperatorFault, RobotFault
from lwd.operators.lerobot import LeRobotOperator
from lwd.robots.lerobot import LeRobotRobot
from lwd.robots.lerobot_devices import make_device, make_teleoperator
from lwd.types import Embodiment, TokenSpec

from ...lerobot.breakingcamera import HEIGHT, WIDTH, BreakingCamera
from ...lerobot.bus_arm import Breaks, config
from ...lerobot.feetech_bus import MIDDLE, FeetechBus, feetech_bus

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
ARM = Embodiment(
    name="so101", control_hz=50.0, state_tokens=(TokenSpec(name="state", size=6),), cameras={"front": (HEIGHT, WIDTH)},
    action_low=(-100.0,) * 6, action_high=(100.0,) * 6,
)  # fmt: skip
SETTINGS = {"home": [0.0] * 5 + [50.0], "home_s": 0.2}
(TASK,) = config(**SETTINGS).tasks_at(ARM.control_hz)
AIR = np.array([40.0] * 5 + [60.0], np.float32)


@pytest.fixture
def bus() -> Iterator[FeetechBus]:
    with feetech_bus() as bus:
        yield bus


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    monkeypatch.setattr("lwd.robots.lerobot.CONNECT_PAUSE_S", 0.02)
    monkeypatch.setattr(BreakingCamera, "breaks", Breaks())


def calibration(directory: Path, identifier: str) -> dict[str, str]:
    """A calibration as `lerobot-calibrate` leaves it, of these servos."""
    joints = {
        name: {"id": number, "drive_mode": 0, "homing_offset": 0, "range_min": 0, "range_max": 4095}
        for number, name in enumerate(JOINTS, 1)
    }
    (directory / f"{identifier}.json").write_text(json.dumps(joints))
    return {"id": identifier, "calibration_dir": str(directory)}


def so101(bus: FeetechBus, directory: Path, breaks: Breaks, **settings: object) -> LeRobotRobot:
    BreakingCamera.breaks = breaks
    made = {"port": bus.port, "cameras": {"front": {"type": "breaking"}}, **calibration(directory, "arm")}
    return LeRobotRobot(make_device("so101", made), ARM, config(**SETTINGS, **settings))


def torque(bus: FeetechBus) -> set[bool]:
    return {servo.torque for servo in bus.servos.values()}


def dropped(bus: FeetechBus) -> list[int]:
    return [at for servo in bus.servos.values() for at in servo.dropped]


def test_it_is_connected_at_the_second_try_and_let_go_at_home(bus, tmp_path):
    robot = so101(bus, tmp_path, Breaks("camera.connect", times=1))
    robot.reset(TASK, 0)
    robot.step(AIR)
    assert torque(bus) == {True}
    assert bus.servos[1].position > MIDDLE + 400
    robot.park()
    robot.close()
    assert torque(bus) == {False}
    assert all(abs(at - MIDDLE) < 5 for at in dropped(bus))
    assert not robot._driver.device.bus.is_connected


def test_in_the_air_it_holds_when_its_camera_is_gone_and_is_configured_without_being_let_go(bus, tmp_path):
    breaks = Breaks("camera.connect", after=1, times=3)
    robot = so101(bus, tmp_path, breaks)
    robot.reset(TASK, 0)
    robot.step(AIR)
    in_the_air = bus.servos[1].position
    robot._driver.device.cameras["front"].opened = False
    with pytest.raises(RobotFault, match=r"so_follower arm cannot connect .*camera\.connect"):
        robot.reset(TASK, 0)
    assert not robot._driver.device.bus.is_connected
    assert torque(bus) == {True}
    assert bus.servos[1].position == in_the_air
    robot.reset(TASK, 0)
    robot.step(AIR)
    assert dropped(bus) == []
    robot.close()
    assert torque(bus) == {True}


def test_a_lost_packet_is_a_fault_and_a_bus_that_is_silent_is_closed_with_its_torque_on(bus, tmp_path, caplog):
    robot = so101(bus, tmp_path, Breaks(), on_exit="release")
    robot.reset(TASK, 0)
    robot.step(AIR)
    bus.silent = True
    with pytest.raises(RobotFault, match="so_follower arm cannot"):
        robot.step(AIR)
    robot.close()
    assert not robot._driver.device.bus.is_connected
    assert not robot._driver.device.cameras["front"].opened
    assert "its torque could not be turned off: switch its power off" in caplog.text


def test_a_leader_that_loses_a_packet_is_connected_anew(bus, tmp_path):
    leader = make_teleoperator({"type": "so101_leader", "port": bus.port, **calibration(tmp_path, "leader")})
    operator = LeRobotOperator(leader, ARM)
    operator.connect()
    operator.poll(None)
    bus.silent = True
    with pytest.raises(OperatorFault, match="so_leader leader cannot say what to do"):
        operator.poll(None)
    with pytest.raises(OperatorFault, match="so_leader leader cannot connect"):
        operator.connect()
    assert not leader.bus.is_connected
    bus.silent = False
    operator.connect()
    operator.poll(None)
    operator.close()
    assert not leader.bus.is_connected


def test_a_leader_whose_motors_are_calibrated_otherwise_is_named_with_the_command(bus, tmp_path):
    bus.servos[2].put(11, 3000)
    settings = {"type": "so101_leader", "port": bus.port, **calibration(tmp_path, "leader")}
    leader = make_teleoperator(settings)
    with pytest.raises(OperatorFault) as caught:
        LeRobotOperator(leader, ARM).connect()
    assert f"`lerobot-calibrate --teleop.type=so101_leader --teleop.port={bus.port} --teleop.id=leader " in str(
        caught.value
    )
    assert not leader.bus.is_connected
