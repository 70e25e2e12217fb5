"""Meta-World's MT10 as a `Robot`: ten tasks of one Sawyer arm, with scripted experts (the extra `metaworld`)."""

import os
import sys
import warnings
from typing import Any

if sys.platform == "linux":
    # Read once, when mujoco is imported; its default needs a display.
    os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium
import metaworld
import numpy as np
from gymnasium import spaces
from metaworld.policies import ENV_POLICY_MAP

from lwd.driving import Driving, drive_axis, hand_axis
from lwd.robots.gym import GymRobot, GymSettings
from lwd.robots.gym_success import success_test
from lwd.types import Embodiment, FloatArray, RobotView, Task

NAME = "metaworld-mt10"
PICTURE_NAME = f"{NAME}-pixels"
_PICTURE_SIZE = 64
_CAMERA = "corner2"
_CAMERA_POSITION = (0.75, 0.075, 0.7)
_SEEN_OF_STATE = 4
"""Position and opening of the hand: what LeRobot's environment calls `agent_pos`."""
_TIME_LIMIT = 300
"""Control steps at 80 Hz; the experts need 50 to 200, the environments allow 500."""
_WORDS: dict[str, tuple[str, ...]] = {
    "reach-v3": ("reach the goal", "move the hand to the goal", "go to the goal position"),
    "push-v3": ("push the puck to the goal", "slide the puck to the goal", "move the puck to the goal"),
    "pick-place-v3": (
        "put the puck at the goal",
        "pick the puck up and place it at the goal",
        "carry the puck to the goal",
    ),
    "door-open-v3": ("open the door", "pull the door open", "swing the door open"),
    "drawer-open-v3": ("open the drawer", "pull the drawer out", "pull the drawer open"),
    "drawer-close-v3": ("close the drawer", "push the drawer in", "shut the drawer"),
    "button-press-topdown-v3": ("press the button from above", "push the button down", "press the button down"),
    "peg-insert-side-v3": ("insert the peg", "put the peg into the hole", "push the peg into the hole"),
    "window-open-v3": ("open the window", "slide the window open", "push the window open"),
    "window-close-v3": ("close the window", "slide the window shut", "push the window shut"),
}


def _task(name: str) -> Task:
    *known, heldout = _WORDS[name]
    return Task(
        name=name,
        instructions=tuple(known),
        heldout_instructions=(heldout,),
        sub_steps=("done",),
        time_limit=_TIME_LIMIT,
        long_horizon=False,
    )


MT10 = tuple(_task(name) for name in _WORDS)
"""The ten tasks; a task's name is its environment's."""


class _Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws object and goal from the seed of `reset`; Meta-World keeps a fixed list of starts otherwise."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.env.unwrapped.seed(seed)  # type: ignore[attr-defined]
        return self.env.reset(seed=seed, options=options)


class _Pictures(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A picture and the hand instead of all objects' poses: the view of LeRobot's Meta-World environment.

    `full`, the whole state, is for the experts; it is no part of the space, so no policy sees it.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(environment)
        state = spaces.Box(-np.inf, np.inf, (_SEEN_OF_STATE,), np.float64)
        self.observation_space = spaces.Dict({"state": state, "image": spaces.Box(0, 255, (size, size, 3), np.uint8)})

    def observation(self, observation: Any) -> dict[str, Any]:
        # The camera stands on its head, and LeRobot turns its picture, too.
        picture = np.flip(np.asarray(self.env.render()), (0, 1))
        return {"state": observation[:_SEEN_OF_STATE], "image": picture, "full": observation}


def _environment(task: Task, picture_size: int | None = None) -> gymnasium.Env[Any, Any]:
    benchmark = metaworld.MT1(task.name, seed=0)
    seen = (
        {}
        if picture_size is None
        else {"render_mode": "rgb_array", "camera_name": _CAMERA, "width": picture_size, "height": picture_size}
    )
    environment = benchmark.train_classes[task.name](**seen)
    environment.set_task(benchmark.train_tasks[0])
    # After set_task, which freezes the start to one of its list.
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    if picture_size is None:
        return _Seeded(environment)
    environment.model.cam_pos[environment.model.camera(_CAMERA).id] = _CAMERA_POSITION
    return _Pictures(_Seeded(environment), picture_size)


def metaworld_driving(embodiment: Embodiment) -> Driving:
    """Return how a person drives the arm: as its picture shows it."""
    axes = (
        # The camera stands at a corner: both are aslant, and these are the nearest.
        drive_axis("x", -1, 1, minus="away", plus="towards you"),
        drive_axis("y", -1, 1, minus="left", plus="right"),
        drive_axis("z", -1, 1, minus="down", plus="up"),
        hand_axis(),
    )
    return Driving(control_hz=embodiment.control_hz, axes=axes)


def make_metaworld(
    tasks: tuple[Task, ...] = MT10, *, pixels: bool = False, embodiment: Embodiment | None = None
) -> GymRobot:
    """Build the robot; a task's simulator is built when it is first reset.

    Args:
        pixels: whether it sees a picture and its hand, as in LeRobot's `metaworld` environment, instead of all poses.
        embodiment: what the run says of the robot, the size of its picture among it; None: as the environment has it.
    """
    if not pixels:
        settings = GymSettings(
            name=NAME, success=success_test("success"), embodiment=embodiment, driving=metaworld_driving
        )
        return GymRobot(_environment, tasks, settings)
    size = max(embodiment.cameras["image"]) if embodiment and "image" in embodiment.cameras else _PICTURE_SIZE
    settings = GymSettings(
        name=PICTURE_NAME, success=success_test("success"), embodiment=embodiment, driving=metaworld_driving
    )
    return GymRobot(lambda task: _environment(task, size), tasks, settings)


class MetaWorldExpert:
    """Meta-World's own scripted policies, by the view's task."""

    def __init__(self) -> None:
        self._policies: dict[str, Any] = {}

    def act(self, view: RobotView) -> FloatArray:
        """Return the expert's action (4,) in [-1, 1], from the environment's full observation."""
        if view.task.name not in self._policies:
            self._policies[view.task.name] = ENV_POLICY_MAP[view.task.name]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": the action is clipped, as intended
            raw = view.privileged["raw"]
            full = raw["full"] if isinstance(raw, dict) else raw
            action = self._policies[view.task.name].get_action(full)
        clipped: FloatArray = np.clip(action, -1.0, 1.0).astype(np.float32)
        return clipped
