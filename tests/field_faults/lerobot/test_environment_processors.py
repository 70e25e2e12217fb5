"""LeRobot's processors of an environment were skipped: LIBERO gave 34 numbers and turned pictures (row 25)."""

import importlib.util
import json
import os

os.environ.setdefault("MUJOCO_GL", "egl")

from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.processor import LiberoProcessorStep, PolicyProcessorPipeline
from lerobot.processor.pipeline import ActionProcessorStep

from lwd.errors import ConfigError, RobotFault
from lwd.fleet.host_process import RobotSpec
from lwd.fleet.known_tasks import KnownTask
from lwd.fleet.own_robots import lerobot_environment_robots
from lwd.robots.lerobot_envs import LeRobotEnvironments
from lwd.types import Embodiment, TokenSpec

HEIGHT, WIDTH = 20, 24
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float64)


class Arm(gymnasium.Env):
    """Observes what LeRobot's LIBERO does: pictures that stand on their heads, and a nested state of 34 numbers."""

    observation_space = spaces.Dict(
        {
            "pixels": spaces.Dict({"image": spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)}),
            "robot_state": spaces.Dict(
                {
                    "eef": spaces.Dict({"pos": box(3), "quat": box(4), "mat": box(3, 3)}),
                    "gripper": spaces.Dict({"qpos": box(2), "qvel": box(2)}),
                    "joints": spaces.Dict({"pos": box(7), "vel": box(7)}),
                }
            ),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    task_description = "put it there"
    _max_episode_steps = 9

    def __init__(self) -> None:
        self.sent: list[np.ndarray] = []
        self.init_state_id = 0

    def _observation(self) -> dict[str, object]:
        eef = {"pos": np.array([1.0, 2.0, 3.0]), "quat": np.array([0.0, 0.0, 1.0, 0.0]), "mat": np.eye(3)}
        return {
            "pixels": {"image": PICTURE[::-1, ::-1]},
            "robot_state": {
                "eef": eef,
                "gripper": {"qpos": np.array([4.0, 5.0]), "qvel": np.zeros(2)},
                "joints": {"pos": np.arange(7.0), "vel": np.zeros(7)},
            },
        }

    def reset(self, *, seed=None, options=None):
        self.begun_from, self.init_state_id = self.init_state_id, self.init_state_id + 1
        return self._observation(), {"is_success": False}

    def step(self, action):
        self.sent.append(action)
        if len(self.sent) == 3:
            raise RuntimeError("contact forces are lost")
        return self._observation(), 0.0, False, False, {"is_success": False}


@dataclass
class Halved(ActionProcessorStep):
    """A policy's action has a third number, and twice the range."""

    def action(self, action: torch.Tensor) -> torch.Tensor:
        return action[:, :2] / 2

    def transform_features(self, features):
        return features


@dataclass
class ArmConfig(EnvConfig):
    task: str = "arm"
    fps: int = 15
    halves: bool = False
    features: dict[str, PolicyFeature] = field(default_factory=dict)

    @property
    def gym_kwargs(self) -> dict:
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False):
        if self.task == "crowded":
            raise RuntimeError("no graphics memory left")
        if self.task == "wrong":
            raise ValueError("no such task")
        if self.halves:
            self.features["action"] = PolicyFeature(type=FeatureType.ACTION, shape=(3,))
        return {"arm": {0: gymnasium.vector.SyncVectorEnv([Arm])}}

    def get_env_processors(self):
        after = [Halved()] if self.halves else []
        return PolicyProcessorPipeline(steps=[LiberoProcessorStep()]), PolicyProcessorPipeline(steps=after)


@pytest.fixture(scope="module", autouse=True)
def known():
    EnvConfig.register_subclass("field_fault_arm")(ArmConfig)


def test_state_and_pictures_are_those_of_lerobots_datasets():
    environments = LeRobotEnvironments("field_fault_arm", {})
    robot = environments.robot(environments.tasks)
    assert robot.embodiment.state_tokens == (TokenSpec(name="state", size=8),)
    assert dict(robot.embodiment.cameras) == {"image": (HEIGHT, WIDTH)}
    assert robot.embodiment.control_hz == 15
    seen = robot.reset(environments.tasks[0], 0)
    # Half a turn about z, as axis and angle.
    np.testing.assert_allclose(seen.state, [1, 2, 3, 0, 0, np.pi, 4, 5], atol=1e-6)
    np.testing.assert_array_equal(seen.images["image"], PICTURE)
    np.testing.assert_array_equal(robot.step(np.zeros(2, np.float32)).observation.images["image"], PICTURE)


def test_the_same_seed_takes_the_same_stored_start():
    environments = LeRobotEnvironments("field_fault_arm", {})
    (task,) = environments.tasks
    robot = environments.robot((task,))
    starts = []
    for seed in (7, 7, 8):
        robot.reset(task, seed)
        starts.append(robot._opened(task).environment.unwrapped.begun_from)
    assert starts == [7, 7, 8]


def test_an_environment_that_raised_is_built_anew():
    environments = LeRobotEnvironments("field_fault_arm", {})
    (task,) = environments.tasks
    robot = environments.robot((task,))
    robot.reset(task, 0)
    for _ in range(2):
        robot.step(np.zeros(2, np.float32))
    with pytest.raises(RobotFault, match="RuntimeError: contact forces are lost"):
        robot.step(np.zeros(2, np.float32))
    robot.reset(task, 0)
    assert robot.step(np.zeros(2, np.float32)).outcome is None


def test_actions_pass_the_postprocessor_and_limits_are_the_policys():
    arguments = {"halves": True}
    environments = LeRobotEnvironments("field_fault_arm", arguments)
    with pytest.raises(ConfigError, match=r"actions of lerobot-field_fault_arm are not bounded.*embodiment\.json"):
        environments.robot(environments.tasks)
    recorded = Embodiment(
        name="arm", control_hz=15.0, state_tokens=(TokenSpec(name="state", size=8),),
        action_low=(-2.0,) * 3, action_high=(2.0,) * 3, cameras={"image": (HEIGHT, WIDTH)},
    )  # fmt: skip
    environments = LeRobotEnvironments("field_fault_arm", arguments)
    (task,) = environments.tasks
    robot = environments.robot((task,), embodiment=recorded)
    assert robot.embodiment == recorded
    robot.reset(task, 0)
    assert robot.step(np.array([2.0, -1.0, 0.5], np.float32)).executed is None
    (sent,) = robot._opened(task).environment.unwrapped.sent
    np.testing.assert_array_equal(sent, np.array([1.0, -0.5], np.float32))


def test_an_environment_that_cannot_be_made_says_why_and_ends_the_run_only_if_it_never_can():
    with pytest.raises(ConfigError, match=r"'task': 'wrong'.: ValueError: no such task: install its package"):
        LeRobotEnvironments("field_fault_arm", {"task": "wrong"})
    with pytest.raises(RobotFault, match=r"'task': 'crowded'.: RuntimeError: no graphics memory left"):
        LeRobotEnvironments("field_fault_arm", {"task": "crowded"})


def test_its_only_task_is_the_runs():
    known = (KnownTask(name="put_it_there", instructions=("Put it there!",)),)
    for said in (known, (replace(known[0], instructions=("lay it down",)),)):
        make, (task,) = lerobot_environment_robots("field_fault_arm", "{}", (), known=said, time_limit=4)
        assert (task.name, task.instructions, task.time_limit) == ("put_it_there", said[0].instructions, 4)
        robot, _ = make(RobotSpec(robot_id="r"))
        robot.reset(task, 0)
        robot.close()


@pytest.mark.skipif(
    importlib.util.find_spec("libero") is None,
    reason="LIBERO is not installed (docs/bring-your-own.md says how; it needs an environment of its own)",
)
@pytest.mark.filterwarnings("ignore")  # of its own packages
def test_libero_itself():
    arguments = {"task": "libero_spatial", "task_ids": [0], "init_states": False}
    size = {"observation_height": 64, "observation_width": 64}
    make, (task,) = lerobot_environment_robots("libero", json.dumps(arguments | size), ())
    assert task.instructions == ("pick up the black bowl between the plate and the ramekin and place it on the plate",)
    robot, _ = make(RobotSpec(robot_id="r"))
    assert robot.embodiment.state_tokens == (TokenSpec(name="state", size=8),)
    assert dict(robot.embodiment.cameras) == {"image": (64, 64), "image2": (64, 64)}
    seen = robot.reset(task, 0)
    # The gripper's two fingers, which mirror each other, come last.
    assert seen.state[6] == pytest.approx(-seen.state[7], abs=1e-3)
    # The wooden table, warm in colour, is below; the grey floor and the robot's base above.
    picture = seen.images["image"].astype(float)
    warmth = (picture[..., 0] - picture[..., 2]).mean(axis=1)
    assert warmth[48:].mean() > warmth[:16].mean() + 20
    assert robot.step(np.zeros(7, np.float32)).outcome is None
    robot.close()
