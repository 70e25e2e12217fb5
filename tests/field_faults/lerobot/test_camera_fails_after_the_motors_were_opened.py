"""A failed connect leaves nothing open, and is tried again; motors keep the torque that they had, and no other."""

import math

import numpy as np
import pytest

from lwd.errors import RobotFault
from lwd.lerobot_parts import connect, parts
from lwd.robots.lerobot import CONNECT_TRIES, LeRobotRobot
from lwd.types import FloatArray

from ...lerobot.bus_arm import ARM, Breaks, BusArm, BusArmConfig, TwoBusArms, TwoBusArmsConfig, config

AIR: FloatArray = np.array([60.0, 60.0], np.float32)
(TASK,) = config().tasks_at(ARM.control_hz)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("lwd.robots.lerobot.CONNECT_PAUSE_S", 0.01, raising=False)


def arm(breaks: Breaks, **settings: object) -> tuple[LeRobotRobot, BusArm]:
    device = BusArm(BusArmConfig(id="arm", breaks=breaks))
    return LeRobotRobot(device, ARM, config(**settings)), device


def in_the_air(**settings: object) -> tuple[LeRobotRobot, BusArm, Breaks]:
    """An arm that was moved, and whose camera is then lost for ever."""
    breaks = Breaks("camera.connect", after=1, times=math.inf)
    robot, device = arm(breaks, **settings)
    robot.reset(TASK, 0)
    robot.step(AIR)
    device.cameras["front"].is_connected = False
    return robot, device, breaks


def test_a_camera_that_fails_once_is_tried_again():
    robot, device = arm(Breaks("camera.connect", times=1))
    robot.reset(TASK, 0)
    assert robot.step(AIR).outcome is None
    robot.park()
    robot.close()
    assert device.is_closed
    assert not device.bus.torque
    assert all(abs(at) < 10 for where in device.bus.dropped for at in where.values())


def test_a_camera_that_fails_for_ever_leaves_nothing_open_and_no_motor_on():
    breaks = Breaks("camera.connect", times=math.inf)
    robot, device = arm(breaks)
    for attempt in (1, 2):
        with pytest.raises(RobotFault, match=r"bus_arm arm cannot connect .*camera\.connect"):
            robot.reset(TASK, 0)
        assert device.is_closed
        assert breaks.broke == attempt * CONNECT_TRIES
    robot.close()
    assert device.is_closed
    assert not device.bus.torque


def test_what_connecting_turned_on_goes_off_again():
    robot, device = arm(Breaks("robot.configure", times=math.inf))
    with pytest.raises(RobotFault, match=r"robot\.configure"):
        robot.reset(TASK, 0)
    assert device.is_closed
    assert not device.bus.torque


def test_motors_that_had_torque_before_keep_it():
    """An arm that an earlier host left holding in the air."""
    robot, device = arm(Breaks("camera.connect", times=math.inf))
    device.bus.torque, device.bus.positions = True, dict(zip(device.bus.motors, (60.0, 60.0), strict=True))
    with pytest.raises(RobotFault):
        robot.reset(TASK, 0)
    robot.close()
    assert device.is_closed
    assert device.bus.torque
    assert device.bus.dropped == []


def test_an_arm_in_the_air_keeps_its_torque_when_its_camera_is_lost_and_cannot_be_connected():
    robot, device, _ = in_the_air()
    with pytest.raises(RobotFault, match=r"camera\.connect"):
        robot.reset(TASK, 0)
    assert device.is_closed
    with pytest.raises(RobotFault):
        robot.park()
    robot.close()
    assert device.is_closed
    assert device.bus.torque
    assert device.bus.dropped == []


def test_an_arm_in_the_air_is_not_let_go_by_connecting_it_anew():
    """LeRobot's `configure` turns the torque off while it writes."""
    robot, device, breaks = in_the_air()
    breaks.times = 1
    robot.reset(TASK, 0)
    robot.step(AIR)
    assert breaks.broke == 1
    assert device.bus.torque
    assert device.bus.dropped == []
    assert "configure" not in vars(device)
    robot.close()


def test_an_arm_that_is_garbage_is_not_let_go():
    """LeRobot's destructor disconnects."""
    robot, device, _ = in_the_air()
    device.cameras["front"].is_connected = True
    device.__del__()
    assert device.is_closed
    assert device.bus.torque
    robot.close()


def test_who_says_release_gets_it_also_where_the_bus_is_closed_by_then():
    robot, device, _ = in_the_air(on_exit="release")
    with pytest.raises(RobotFault):
        robot.reset(TASK, 0)
    assert device.is_closed
    assert device.bus.torque
    robot.close()
    assert device.is_closed
    assert not device.bus.torque


@pytest.mark.parametrize("how", ["home", "hold", "release"])
def test_what_the_motors_do_on_exit_is_a_setting(how):
    robot, device = arm(Breaks(), on_exit=how)
    robot.reset(TASK, 0)
    robot.step(AIR)
    robot.park()
    robot.close()
    assert device.is_closed
    assert device.bus.torque == (how == "hold")
    assert max(map(abs, device.bus.positions.values())) == pytest.approx(0.0 if how == "home" else 60.0)


def test_without_a_home_the_motors_hold(caplog):
    robot, device = arm(Breaks(), home=None)
    robot.reset(TASK, 0)
    robot.step(AIR)
    robot.park()
    robot.close()
    assert device.is_closed
    assert device.bus.torque
    assert "bus_arm arm is left holding, its motors keep their torque (it is not at a home position)" in caplog.text


def test_who_told_lerobot_to_keep_the_torque_keeps_it():
    assert config(robot={"disable_torque_on_disconnect": False}).on_exit == "hold"
    assert config(robot={"disable_torque_on_disconnect": False}, on_exit="home").on_exit == "home"
    assert config().on_exit == "home"


def test_two_arms_are_released_part_by_part():
    breaks = Breaks("camera.connect", after=1, times=math.inf)
    device = TwoBusArms(TwoBusArmsConfig(id="two", left=BusArmConfig(breaks=breaks), right=BusArmConfig(breaks=breaks)))
    assert {part.name for part in parts(device)} == {
        f"{side}_arm{part}" for side in ("left", "right") for part in ("", ".bus", ".cameras.front")
    }
    with pytest.raises(ConnectionError, match=r"camera\.connect"):
        connect(device, may_let_go=True)
    for one in (device.left_arm, device.right_arm):
        assert one.is_closed
        assert not one.bus.torque
