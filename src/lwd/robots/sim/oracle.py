"""An expert for the scene: a planner over sub-goals that calls OGBench's Markov oracles.

It looks only at the present state, so it can take over from anyone at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

from lwd.robots.sim.tasks import DRAWER_OPEN_M, GOALS, SceneGoal
from lwd.types import FloatArray, RobotView

CUBE_IN_OPEN_DRAWER_M = np.array([0.33, -0.24, 0.066])
ALIGNED_M = 0.04
TRAVEL_HEIGHT_M = 0.17
WINDOW_TRAVEL_HEIGHT_M = 0.30
"""The hand must rise above the window's handle before it leaves, or it drags the window back."""
NEAR_WINDOW_Y_M = 0.12
DONE_M = 0.03
"""A slide this close to its goal is done when the hand is elsewhere; OGBench asks for 0.04."""
DONE_AT_HANDLE_M = 0.012
"""While the hand is still at the handle it finishes the movement."""

Info = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SubGoal:
    """Bring one object to one target."""

    what: Literal["cube", "button_0", "button_1", "drawer", "window", "none"]
    target: float | tuple[float, float, float] = 0.0


def _at(hand_m: Any, object_m: Any, radius_m: float) -> bool:
    return bool(np.linalg.norm(hand_m[:2] - object_m[:2]) <= radius_m)


def next_sub_goal(goal: SceneGoal, info: Info) -> SubGoal:
    """Return what to do next: drawer and cube first, then the window, each unlocked as needed and locked at the end."""
    hand = info["proprio/effector_pos"]
    buttons = (info["privileged/button_0_state"], info["privileged/button_1_state"])
    cube = info["privileged/block_0_pos"]
    cube_goal = info["privileged/cube_goal_pos"] if goal.cube_goal_m is None else np.array(goal.cube_goal_m)
    stow = cube_goal[1] < -0.2
    holding = info["proprio/gripper_contact"][0] > 0.1 and np.linalg.norm(hand - cube) <= 0.03

    def slide_done(name: str, target_m: float) -> bool:
        handle = info[f"privileged/{name}_handle_pos"]
        engaged = _at(hand, handle, 0.06) and hand[2] < handle[2] + 0.05
        return bool(
            abs(info[f"privileged/{name}_pos"] - target_m) <= (DONE_AT_HANDLE_M if engaged else DONE_M)
        )

    def slide(name: Literal["drawer", "window"], button: Literal[0, 1], target_m: float) -> SubGoal:
        if not buttons[button]:
            return SubGoal(what="button_0" if button == 0 else "button_1", target=1.0)
        return SubGoal(what=name, target=target_m)

    if stow and (holding or not info["privileged/cube_in_drawer"]):
        if not holding and not slide_done("drawer", DRAWER_OPEN_M):
            return slide("drawer", 0, DRAWER_OPEN_M)
        return SubGoal(what="cube", target=tuple(CUBE_IN_OPEN_DRAWER_M))
    if not stow and (
        np.linalg.norm(cube - cube_goal) > ALIGNED_M * 0.75 or (holding and goal.cube_goal_m is not None)
    ):
        return SubGoal(what="cube", target=tuple(cube_goal))
    if not slide_done("drawer", goal.drawer_goal_m):
        return slide("drawer", 0, goal.drawer_goal_m)
    if buttons[0] != goal.buttons_goal[0]:
        return SubGoal(what="button_0", target=float(goal.buttons_goal[0]))
    if not slide_done("window", goal.window_goal_m):
        return slide("window", 1, goal.window_goal_m)
    if buttons[1] != goal.buttons_goal[1]:
        return SubGoal(what="button_1", target=float(goal.buttons_goal[1]))
    return SubGoal(what="none")


class SceneExpert:
    """Acts towards the task's goal from any state of the scene."""

    def __init__(self) -> None:
        self._oracles = {
            "cube": CubeMarkovOracle(env=None),
            "button": ButtonMarkovOracle(env=None, gripper_always_closed=True),
            "drawer": DrawerMarkovOracle(env=None),
            "window": WindowMarkovOracle(env=None),
        }
        for oracle in self._oracles.values():
            # OGBench draws these from numpy's global generator in reset(); the planner decides where to go instead.
            oracle._final_pos, oracle._final_yaw, oracle._step = np.array([0.425, 0.0, 0.3]), 0.0, 0

    def act(self, view: RobotView) -> FloatArray:
        """Return the next action (5,) in [-1, 1]."""
        info = view.privileged
        sub_goal = next_sub_goal(GOALS[view.task.name], info)
        action = self._act(sub_goal, info)
        return np.asarray(np.clip(action, -1, 1), dtype=np.float32)

    def _act(self, sub_goal: SubGoal, info: Info) -> Any:
        hand = info["proprio/effector_pos"]
        if sub_goal.what == "none":
            return self._rise(hand)
        place = {
            "cube": "privileged/block_0_pos",
            "button_0": "privileged/button_0_top_pos",
            "button_1": "privileged/button_1_top_pos",
            "drawer": "privileged/drawer_handle_pos",
            "window": "privileged/window_handle_pos",
        }[sub_goal.what]
        if not _at(hand, info[place], ALIGNED_M) and hand[2] < self._travel_height(hand, info):
            return self._rise(hand)
        return self._oracles[sub_goal.what.split("_")[0]].select_action(None, self._targeted(sub_goal, info))

    @staticmethod
    def _travel_height(hand: Any, info: Info) -> float:
        at_window = hand[1] > NEAR_WINDOW_Y_M and _at(hand, info["privileged/window_handle_pos"], 0.10)
        return WINDOW_TRAVEL_HEIGHT_M if at_window else TRAVEL_HEIGHT_M

    @staticmethod
    def _rise(hand: Any) -> Any:
        return np.array([0.0, 0.0, 1.0, 0.0, -1.0])

    @staticmethod
    def _targeted(sub_goal: SubGoal, info: Info) -> dict[str, Any]:
        """Return the state with the target in OGBench's names."""
        targeted = dict(info)
        if sub_goal.what == "cube":
            targeted["privileged/target_block"] = 0
            targeted["privileged/target_block_pos"] = np.array(sub_goal.target)
            targeted["privileged/target_block_yaw"] = np.zeros(1)
        elif sub_goal.what in ("button_0", "button_1"):
            index = int(sub_goal.what[-1])
            targeted["privileged/target_button"] = index
            targeted["privileged/target_button_state"] = int(sub_goal.target)  # type: ignore[arg-type]
            targeted["privileged/target_button_top_pos"] = info[f"privileged/button_{index}_top_pos"]
        else:
            # The handle moves with its slide: the drawer's along y, the window's along x.
            handle = info[f"privileged/{sub_goal.what}_handle_pos"].copy()
            travel = float(sub_goal.target) - info[f"privileged/{sub_goal.what}_pos"]  # type: ignore[arg-type]
            if sub_goal.what == "drawer":
                handle[1] -= travel  # the drawer's frame is turned by pi
            else:
                handle[0] += travel
            targeted[f"privileged/target_{sub_goal.what}_handle_pos"] = handle
        return targeted
