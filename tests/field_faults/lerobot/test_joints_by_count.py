"""A3 on devices: a robot whose joints have another order than the run's got its commands column by column."""

from dataclasses import replace

import numpy as np
import pytest
from lerobot.teleoperators.utils import TeleopEvents
from tests.lerobot.joint_robot import HEIGHT, WIDTH, JointLeader, JointLeaderConfig, JointRobot, JointRobotConfig

from lwd.errors import ConfigError
from lwd.operators.lerobot import LeRobotOperator
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot
from lwd.types import Embodiment, Observation, RobotView, TokenSpec

ORDER = ("gripper.pos", "shoulder.pos", "elbow.pos")
RUN = Embodiment(
    name="arm",
    control_hz=200.0,
    state_tokens=(TokenSpec(name="state", size=3, names=ORDER),),
    action_low=(0.0, -90.0, -90.0),
    action_high=(100.0, 90.0, 90.0),
    action_names=ORDER,
    cameras={"front": (HEIGHT, WIDTH)},
)
CONFIG = LeRobotConfig.model_validate({"tasks": [{"name": "reach", "instructions": ["reach"], "time_limit_s": 10}]})


def made(run: Embodiment = RUN) -> tuple[LeRobotRobot, JointRobot]:
    device = JointRobot(JointRobotConfig(id="test", speed=1000.0))
    return LeRobotRobot(device, run, CONFIG), device


def test_commands_and_measurements_are_matched_by_name():
    robot, device = made()
    (task,) = CONFIG.tasks_at(RUN.control_hz)
    robot.reset(task, 0)
    observation = robot.step(np.array([70, 10, -20], np.float32)).observation
    assert device.positions.tolist() == [10, -20, 70]
    assert observation.state.tolist() == [70, 10, -20]
    assert robot.action_names == ORDER
    assert [axis.label for axis in robot.driving.axes] == ["gripper", "shoulder", "elbow"]
    robot.close()


def test_other_joints_and_cameras_are_refused_with_both_lists():
    other = ("gripper.pos", "shoulder.pos", "wrist.pos")
    with pytest.raises(
        ConfigError, match=r"is \[shoulder.pos, elbow.pos, gripper.pos\], the run's is \[gripper.pos, s"
    ):
        made(replace(RUN, action_names=other))
    with pytest.raises(
        ConfigError, match=r"state state is \[shoulder.pos, .*the run's is \[gripper.pos, shoulder.pos, w"
    ):
        made(replace(RUN, state_tokens=(TokenSpec(name="state", size=3, names=other),)))
    with pytest.raises(ConfigError, match=r"camera front is 24x32 .* the run's front is 32x32: it would be squeezed"):
        made(replace(RUN, cameras={"front": (32, 32)}))
    # A run from before there were names: the order is the device's, as it was.
    plain = replace(RUN, action_names=(), state_tokens=(TokenSpec(name="state", size=3),))
    assert made(plain)[0].action_names == ("shoulder.pos", "elbow.pos", "gripper.pos")


def test_a_leader_arm_at_a_desk_is_matched_by_name_too():
    """There nobody asks the robot: the run's names say the order."""
    leader = JointLeader(JointLeaderConfig(id="test", with_events=True))
    operator = LeRobotOperator(leader, RUN)
    leader.connect()
    leader.pose = {"shoulder.pos": 10.0, "elbow.pos": -20.0, "gripper.pos": 70.0}
    leader.events = {TeleopEvents.IS_INTERVENTION: True}
    view = RobotView(
        robot_id="r", task=CONFIG.tasks_at(RUN.control_hz)[0], step=0, sub_step_scores=(), privileged={},
        observation=Observation(state=np.zeros(3, np.float32)),
    )  # fmt: skip
    assert operator.poll(view).action.tolist() == [70, 10, -20]
    with pytest.raises(ConfigError, match=r"joint_leader is \[shoulder.pos, .*the run's is \[a, b"):
        LeRobotOperator(leader, replace(RUN, action_names=("a", "b", "gripper.pos")))
