"""LeRobot robots and teleoperators: rate, limits, faults, who acts; Meta-World's experts."""

import numpy as np
import pytest
from lerobot.teleoperators.utils import TeleopEvents

from lwd.errors import ConfigError, RobotFault
from lwd.fleet.own_robots import lerobot_robots, metaworld_tasks
from lwd.operators.demonstrator import Behaviour, Demonstrator
from lwd.operators.lerobot import REST_STEPS, LeRobotOperator
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot, read_config
from lwd.robots.lerobot_devices import make_device, make_teleoperator
from lwd.robots.metaworld import MT10, MetaWorldExpert, make_metaworld
from lwd.robots.session import EpisodeSession
from lwd.types import Controller, Embodiment, Outcome, Source, TokenSpec

from .joint_robot import JOINTS, JointLeader, JointLeaderConfig, JointRobot, JointRobotConfig

HZ = 50.0
ARM = Embodiment(
    name="joint-arm", control_hz=HZ, state_tokens=(TokenSpec(name="state", size=3),),
    action_low=(-90.0, -90.0, 0.0), action_high=(90.0, 90.0, 100.0),
)  # fmt: skip
CONFIG = LeRobotConfig.model_validate({"tasks": [{"name": "reach", "instructions": ["reach"], "time_limit_s": 10}]})
(TASK,) = CONFIG.tasks_at(HZ)


class Clock:
    """A clock that stands still unless somebody sleeps, or a step takes its time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def arm(**config) -> tuple[LeRobotRobot, JointRobot, Clock]:
    device, clock = JointRobot(JointRobotConfig(id="test", camera=False, **config)), Clock()
    return LeRobotRobot(device, ARM, CONFIG, clock=clock, sleep=clock.sleep), device, clock


def session(robot, operator=None) -> EpisodeSession:
    return EpisodeSession(
        robot, TASK, "reach", seed=0, robot_id="r", source=Source.FLEET, policy_version=1, world="real",
        operator=operator,
    )  # fmt: skip


def test_periods_follow_each_other_without_a_gap_whatever_the_caller_needs():
    robot, _, clock = arm()
    robot.reset(TASK, 0)
    begun_s = clock.now_s
    for thinking_s in (0.0, 0.015, 0.004, 0.0):
        clock.now_s += thinking_s
        robot.step(np.zeros(3, np.float32))
    assert clock.now_s - begun_s == pytest.approx(4 / HZ)
    assert robot.pacer.overruns == 0
    clock.now_s += 0.05
    robot.step(np.zeros(3, np.float32))
    assert robot.pacer.overruns == 1
    robot.step(np.zeros(3, np.float32))
    # An overrun is not caught up on: the arm would be hurried through the next periods.
    assert clock.slept[-1] == pytest.approx(1 / HZ)


def test_what_the_arm_really_executed_is_recorded():
    robot, device, _ = arm(max_relative_target=2.0)
    run = session(robot)
    run.load_chunk(np.array([[50.0, -500.0, 1.0]], np.float32))
    run.step()
    np.testing.assert_array_equal(device.positions, [2, -2, 1])
    np.testing.assert_array_equal(run.truncate().actions_TA, [[2, -2, 1]])


@pytest.mark.parametrize(("broken", "said"), [("lost", "no status packet"), ("nan", "elbow.pos")])
def test_a_robot_that_does_not_answer_is_a_fault_and_the_next_episode_reconnects(broken, said):
    robot, device, _ = arm()
    robot.reset(TASK, 0)
    device.broken = broken
    with pytest.raises(RobotFault, match=said):
        robot.step(np.zeros(3, np.float32))
    device.broken = ""
    robot.reset(TASK, 0)
    assert robot.step(np.ones(3, np.float32)).outcome is None
    assert device.connections == (2 if broken == "lost" else 1)
    robot.close()
    assert not device.is_connected


def test_a_device_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="the cameras are front 24x32, the run's none"):
        LeRobotRobot(JointRobot(JointRobotConfig(id="test")), ARM, CONFIG)
    with pytest.raises(ConfigError, match=r"LeRobot has no robot 'joint'; it has: .*so101_follower"):
        make_device("joint", {})
    with pytest.raises(ConfigError, match="LeRobot cannot make robot so101_follower"):
        make_device("so101", {"prot": "/dev/null"})
    assert make_device("so101", {"port": "/dev/null", "id": "x"}).name == "so_follower"
    with pytest.raises(ConfigError, match="LeRobot has no teleoperator 'mind'"):
        make_teleoperator({"type": "mind"})
    assert make_teleoperator({"type": "gamepad"}).name == "gamepad"
    assert make_teleoperator({"type": "so101_leader", "port": "/dev/null"}).name == "so_leader"


def test_a_file_says_everything(tmp_path):
    path = tmp_path / "arm.json"
    path.write_text(
        """{"robot": {"id": "a", "camera": false}, "teleoperator": {"type": "joint_leader", "with_events": true},
        "tasks": [{"name": "reach", "instructions": ["reach"], "time_limit_s": 2.0}]}"""
    )
    with pytest.raises(ConfigError, match="LeRobot has no robot"):
        lerobot_robots("joint", path, ARM)[0](None)
    path.write_text('{"tasks": [], "speed": 3}')
    with pytest.raises(ConfigError, match=r"tasks is wrong|speed is wrong"):
        read_config(path)


def test_a_leader_arm_takes_over_when_it_moves_and_lets_go_when_it_rests():
    robot, _, _ = arm()
    leader = JointLeader(JointLeaderConfig(id="test"))
    operator = LeRobotOperator(leader, ARM, robot.action_names)
    run = session(robot, operator)

    def one_step() -> int:
        if run.needs_chunk:
            run.load_chunk(np.zeros((1, 3), np.float32))
        run.step()
        return Controller.HUMAN if run.human_acts else Controller.POLICY

    assert one_step() is Controller.POLICY
    leader.pose["shoulder.pos"] = 1.0  # trembling: below two percent of the range
    assert one_step() is Controller.POLICY
    leader.pose["shoulder.pos"] = 20.0
    acted = [one_step() for _ in range(REST_STEPS + 3)]
    assert acted == [Controller.HUMAN] * REST_STEPS + [Controller.POLICY] * 3
    np.testing.assert_array_equal(run.truncate().actions_TA[2], [20, 0, 0])


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (TeleopEvents.SUCCESS, Outcome.SUCCESS),
        (TeleopEvents.TERMINATE_EPISODE, Outcome.FAILURE),
        (TeleopEvents.RERECORD_EPISODE, Outcome.TRUNCATED),
    ],
)
def test_a_device_with_events_says_who_acts_and_how_it_ended(event, outcome):
    robot, _, _ = arm()
    device = JointLeader(JointLeaderConfig(id="test", with_events=True))
    device.pose = dict(zip(JOINTS, (5.0, 6.0, 1.0), strict=True))
    operator = LeRobotOperator(device, ARM, robot.action_names)
    run = session(robot, operator)
    device.events = {TeleopEvents.IS_INTERVENTION: True}
    run.step()
    # LeRobot's gamepads close the gripper with 0; the arm's upper limit is closed.
    device.pose["gripper.pos"] = 1.0
    run.step()
    device.events = {event: True}
    run.step()
    assert run.outcome is outcome
    assert run.episode().controllers_T.tolist() == [Controller.HUMAN] * 2
    np.testing.assert_array_equal(run.episode().actions_TA[0], [5, 6, 1])


def test_a_gamepad_cannot_drive_joints():
    with pytest.raises(ConfigError, match=r"gives delta_x, delta_y, delta_z, gripper; the action needs shoulder\.pos"):
        LeRobotOperator(make_teleoperator({"type": "gamepad"}), ARM, JOINTS)


def test_metaworlds_experts_demonstrate_every_task():
    robot, expert = make_metaworld(), MetaWorldExpert()
    for task in MT10:
        run = EpisodeSession(
            robot, task, task.instructions[0], seed=3, robot_id="m", source=Source.DEMONSTRATION, policy_version=-1,
            world="nominal", operator=Demonstrator(expert, Behaviour()),
        )  # fmt: skip
        while not run.done:
            run.step()
        assert run.outcome is Outcome.SUCCESS, task.name
    robot.close()
    with pytest.raises(ConfigError, match="'juggle' is not one of"):
        metaworld_tasks(("juggle",))
