"""Meta-World's MT10 as a `Robot`: ten tasks of one Sawyer arm, with scripted experts (the extra `metaworld`)."""

import warnings
from typing import Any

import gymnasium
import metaworld
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from lwd.robots.gym import GymRobot, GymSettings
from lwd.types import Embodiment, FloatArray, RobotView, Task

NAME = "metaworld-mt10"
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


def _environment(task: Task) -> gymnasium.Env[Any, Any]:
    benchmark = metaworld.MT1(task.name, seed=0)
    environment = benchmark.train_classes[task.name]()
    environment.set_task(benchmark.train_tasks[0])
    # After set_task, which freezes the start to one of its list.
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    return _Seeded(environment)


def make_metaworld(tasks: tuple[Task, ...] = MT10, *, embodiment: Embodiment | None = None) -> GymRobot:
    """Build the robot; a task's simulator is built when it is first reset."""
    return GymRobot(_environment, tasks, GymSettings(name=NAME, success="success", embodiment=embodiment))


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
            action = self._policies[view.task.name].get_action(view.privileged["raw"])
        clipped: FloatArray = np.clip(action, -1.0, 1.0).astype(np.float32)
        return clipped
