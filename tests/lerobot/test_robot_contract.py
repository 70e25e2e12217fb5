"""The robot contract for the robots that need packages of their own: Meta-World, ALOHA's two arms, LeRobot's."""

import os

# Before any of them loads MuJoCo: there is no display here.
os.environ.setdefault("MUJOCO_GL", "egl")

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.contracts.test_robot_contract import (
    test_a_held_robot_ends_no_episode_and_goes_on_from_where_it_stood,
    test_a_robot_can_be_held_before_its_first_episode_and_after_its_last,
    test_actions_beyond_the_limits_are_clipped,
    test_actions_of_the_wrong_shape_are_refused,
    test_non_finite_actions_are_refused_and_the_robot_stays,
    test_observations_fit_the_embodiment,
    test_the_episode_ends_at_the_time_limit_and_not_before,
    test_the_same_seed_gives_the_same_episode_and_another_seed_another_start,
)

from lwd.errors import ConfigError
from lwd.fleet.host_process import RobotSpec
from lwd.fleet.own_robots import gym_robots, gym_task
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot
from lwd.robots.lerobot_envs import LeRobotEnvironments
from lwd.robots.metaworld import MT10, make_metaworld
from lwd.robots.protocol import Robot
from lwd.types import Embodiment, Task, TokenSpec

from .joint_robot import HEIGHT, WIDTH, JointRobot, JointRobotConfig

__all__ = [
    "test_a_held_robot_ends_no_episode_and_goes_on_from_where_it_stood",
    "test_a_robot_can_be_held_before_its_first_episode_and_after_its_last",
    "test_actions_beyond_the_limits_are_clipped",
    "test_actions_of_the_wrong_shape_are_refused",
    "test_non_finite_actions_are_refused_and_the_robot_stays",
    "test_observations_fit_the_embodiment",
    "test_the_episode_ends_at_the_time_limit_and_not_before",
    "test_the_same_seed_gives_the_same_episode_and_another_seed_another_start",
]

JOINT_ARM = Embodiment(
    name="joint-arm",
    control_hz=200.0,
    state_tokens=(TokenSpec(name="state", size=3),),
    action_low=(-90.0, -90.0, 0.0),
    action_high=(90.0, 90.0, 100.0),
    cameras={"front": (HEIGHT, WIDTH)},
)
CONFIG = LeRobotConfig.model_validate(
    {
        "tasks": [{"name": "reach", "instructions": ["reach"], "time_limit_s": 0.1}],
        "home": [10.0, -10.0, 50.0],
        "home_s": 0.2,
        "home_spread": 5.0,
    }
)
ALOHA = "gym_aloha/AlohaTransferCube-v0"
ALOHA_ARGUMENTS = '{"obs_type": "pixels_agent_pos", "observation_width": 32, "observation_height": 24}'


def joint_arm() -> tuple[Robot, tuple[Task, ...]]:
    robot = LeRobotRobot(JointRobot(JointRobotConfig(id="test")), JOINT_ARM, CONFIG)
    return robot, CONFIG.tasks_at(JOINT_ARM.control_hz)


def metaworld() -> tuple[Robot, tuple[Task, ...]]:
    return make_metaworld(), MT10


def metaworld_pixels() -> tuple[Robot, tuple[Task, ...]]:
    tasks = (replace(MT10[0], time_limit=5),)
    return make_metaworld(tasks, pixels=True), tasks


def lerobot_environment() -> tuple[Robot, tuple[Task, ...]]:
    environments = LeRobotEnvironments("metaworld", {"task": "reach-v3"})
    (task,) = environments.tasks
    assert task.instructions == ("Reach a goal position",)
    tasks = (replace(task, time_limit=5),)
    robot = environments.robot(tasks)
    # What LeRobot's datasets of this environment call them, so that a run of such a dataset fits.
    assert [token.name for token in robot.embodiment.state_tokens] == ["state"]
    assert list(robot.embodiment.cameras) == ["image"]
    return robot, tasks


def aloha() -> tuple[Robot, tuple[Task, ...]]:
    task = gym_task(ALOHA, 5)
    robot, _ = gym_robots(ALOHA, task, success=None, arguments=ALOHA_ARGUMENTS)(RobotSpec(robot_id="two-arms"))
    return robot, (task,)


ROBOTS: dict[str, Callable[[], tuple[Robot, tuple[Task, ...]]]] = {
    "metaworld-mt10": metaworld,
    "metaworld-mt10-pixels": metaworld_pixels,
    "lerobot-environment": lerobot_environment,
    "gym-aloha": aloha,
    "lerobot": joint_arm,
}


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lerobot_env is 'nowhere'; LeRobot knows .*libero"):
        LeRobotEnvironments("nowhere", {})
    with pytest.raises(ConfigError, match=r"lerobot_env 'metaworld' .*wheels"):
        LeRobotEnvironments("metaworld", {"wheels": 4})


@pytest.fixture(scope="module", params=list(ROBOTS))
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Robot, tuple[Task, ...]]]:
    robot, tasks = ROBOTS[request.param]()
    yield robot, tasks
    robot.close()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EOFError("EOF when reading a line"), "'metaworld' asks questions before its first use: import it"),
        (FileNotFoundError(2, "No such file", "scene.xml"), r"FileNotFoundError: .*scene\.xml"),
    ],
)
def test_a_package_that_asks_or_lacks_its_scenes_is_named(monkeypatch, error, message) -> None:
    """As LIBERO does and did here, whose scenes come from a hub."""

    def make_env(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lerobot.envs.factory.make_env", make_env)
    with pytest.raises(ConfigError, match=message):
        LeRobotEnvironments("metaworld", {"task": "reach-v3"})
