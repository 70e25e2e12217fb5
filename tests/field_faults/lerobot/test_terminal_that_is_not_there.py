"""A host asks nothing at a terminal: what a device needs is an error that names the command."""

import builtins
from dataclasses import replace

import pytest

from lwd.errors import OperatorFault, RobotFault
from lwd.fleet.no_terminal import NobodyAnswers, nobody_answers
from lwd.operators.lerobot import LeRobotOperator
from lwd.operators.remote import RemoteOperator
from lwd.robots.lerobot import LeRobotRobot
from lwd.robots.lerobot_devices import make_device, make_teleoperator
from lwd.robots.protocol import driving_of

from ...lerobot.bus_arm import ARM, BusArm, BusArmConfig, BusLeader, BusLeaderConfig, Buttons, ButtonsConfig
from ...lerobot.bus_arm import config as arm_config

DELTAS = replace(ARM, name="hand", action_low=(-1.0,) * 4, action_high=(1.0,) * 4)
(TASK,) = arm_config().tasks_at(ARM.control_hz)


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[str]:
    """A terminal at which nobody sits; what was asked there."""
    questions: list[str] = []

    def ask(prompt: str = "") -> str:
        questions.append(prompt)
        raise AssertionError(f"asked at a terminal: {prompt}")

    monkeypatch.setattr(builtins, "input", ask)
    return questions


@pytest.mark.parametrize("which", ["teleoperator", "events"])
def test_a_teleoperator_that_is_not_calibrated_is_named_with_the_command(asked, which):
    leader = BusLeader(BusLeaderConfig(id="leader0", port="/dev/ttyACM1", calibrated=which != "teleoperator"))
    buttons = Buttons(ButtonsConfig(id="b", calibrated=which != "events"))
    operator = LeRobotOperator(leader, ARM, events=buttons)
    said = {
        "teleoperator": "lerobot-calibrate --teleop.type=bus_leader --teleop.id=leader0 --teleop.port=/dev/ttyACM1 ",
        "events": "lerobot-calibrate --teleop.type=buttons --teleop.id=b",
    }[which]
    with pytest.raises(OperatorFault) as caught:
        operator.connect()
    assert said in str(caught.value)
    assert "a host asks no questions" in str(caught.value)
    failed = leader if which == "teleoperator" else buttons
    assert not failed.is_connected
    operator.close()
    assert asked == []


def test_a_robot_that_is_not_calibrated_is_named_with_the_command(asked):
    device = BusArm(BusArmConfig(id="arm 0", port="/dev/ttyACM0", calibrated=False))
    with pytest.raises(RobotFault) as caught:
        LeRobotRobot(device, ARM, arm_config()).reset(TASK, 0)
    said = (
        "`lerobot-calibrate --robot.type=bus_arm '--robot.id=arm 0' --robot.port=/dev/ttyACM0 --robot.calibrated=false`"
    )
    assert said in str(caught.value)
    assert device.is_closed
    assert asked == []


def test_lerobots_own_devices_are_named_with_their_arguments():
    from lwd.lerobot_parts import calibrate_command

    leader = make_teleoperator({"type": "so101_leader", "port": "/dev/ttyACM1", "id": "leader0"})
    assert calibrate_command(leader) == (
        "lerobot-calibrate --teleop.type=so101_leader --teleop.port=/dev/ttyACM1 --teleop.id=leader0"
    )
    two = make_device(
        "bi_so_follower",
        {"id": "two", "left_arm_config": {"port": "/dev/a"}, "right_arm_config": {"port": "/dev/b"}},
    )
    assert calibrate_command(two) == (
        "lerobot-calibrate --robot.type=bi_so_follower --robot.id=two --robot.left_arm_config.port=/dev/a "
        "--robot.right_arm_config.port=/dev/b"
    )


class Asks(BusLeader):
    """A driver that asks, whatever it is told."""

    def connect(self) -> None:  # LeRobot's gamepad takes no argument either
        input("Which hand do you use? ")


def test_a_driver_that_asks_nevertheless_is_a_fault_with_the_question(asked):
    operator = LeRobotOperator(Asks(BusLeaderConfig(id="leader")), ARM)
    remote = RemoteOperator(
        driving_of(LeRobotRobot(BusArm(BusArmConfig(id="a")), ARM, arm_config())), otherwise=operator
    )
    with nobody_answers(), pytest.raises(OperatorFault, match=r"NobodyAnswers: a robot host has nobody .*Which hand"):
        remote.connect()
    assert asked == []
    with nobody_answers(), pytest.raises(NobodyAnswers):
        input()
    assert builtins.input.__name__ == "ask"


@pytest.mark.filterwarnings("ignore:.*pkg_resources")  # of pygame
def test_a_gamepad_that_is_not_there_is_said(monkeypatch):
    """LeRobot's own says that it is connected, and that nobody acts; its connect() takes no argument."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pad = make_teleoperator({"type": "gamepad", "id": "pad"})
    operator = LeRobotOperator(pad, DELTAS)
    with pytest.raises(OperatorFault, match="gamepad pad finds no gamepad: plug it in"):
        operator.connect()
    assert not pad.is_connected
