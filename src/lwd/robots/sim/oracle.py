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

from lwd.robots.sim.tasks import (
    CUBE_IN_OPEN_DRAWER_M,
    CUBE_IN_SHUT_DRAWER_M,
    DRAWER_OPEN_M,
    GOALS,
    SceneGoal,
)
from lwd.types import FloatArray, RobotView

ALIGNED_M = 0.04
"""Beyond this the hand is elsewhere and travels above everything."""
STRADDLE_M = 0.015
"""Above a handle or the cube, the open fingers must be this well centred, or one lands on top and is
stuck."""
FINGERS_DOWN_M = 0.03
"""Height over an object under which the fingers are around it."""
FINGER_ON_TOP_M = 0.055
HOVER_M = 0.07
TRAVEL_HEIGHT_M = 0.17
WINDOW_TRAVEL_HEIGHT_M = 0.30
"""The hand must rise above the window's handle before it leaves, or it drags the window back."""
NEAR_WINDOW_Y_M = 0.12
DONE_M = 0.03
"""A slide this close to its goal is done when the hand is elsewhere; OGBench asks for 0.04."""
DONE_AT_HANDLE_M = 0.012
"""While the hand is still at the handle it finishes the movement."""
STOWED_X_M = 0.03
"""The shut drawer pushes the cube into place along y but not along x."""
DRAWER_SWEEP_LOW_M, DRAWER_SWEEP_HIGH_M = (0.22, -0.4), (0.44, -0.02)
ASIDE_M = (0.38, 0.06, 0.02)
"""Where a cube goes that lies in the drawer's way."""

Info = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SubGoal:
    """Bring one object to one target."""

    what: Literal["cube", "button_0", "button_1", "drawer", "window", "none"]
    target: float | tuple[float, float, float] = 0.0


def _near(hand_m: Any, object_m: Any, radius_m: float) -> bool:
    return bool(np.linalg.norm(hand_m[:2] - object_m[:2]) <= radius_m)


def next_sub_goal(goal: SceneGoal, info: Info) -> SubGoal:
    """Return what to do next: cube and drawer, then the window; each is unlocked as needed and locked at the
    end."""
    buttons = (info["privileged/button_0_state"], info["privileged/button_1_state"])
    cube = info["privileged/block_0_pos"]
    holding = holds_cube(info)

    def slide(name: Literal["drawer", "window"], target_m: float) -> SubGoal | None:
        handle, hand = info[f"privileged/{name}_handle_pos"], info["proprio/effector_pos"]
        engaged = _near(hand, handle, ALIGNED_M) and hand[2] < handle[2] + 0.05
        if abs(info[f"privileged/{name}_pos"] - target_m) <= (DONE_AT_HANDLE_M if engaged else DONE_M):
            return None
        if not buttons[0 if name == "drawer" else 1]:
            return SubGoal(what="button_0" if name == "drawer" else "button_1", target=1.0)
        return SubGoal(what=name, target=target_m)

    def open_drawer() -> SubGoal | None:
        wanted = slide("drawer", DRAWER_OPEN_M)
        in_the_way = cube[2] < 0.05 and all(
            low <= at <= high for low, at, high in zip(DRAWER_SWEEP_LOW_M, cube[:2], DRAWER_SWEEP_HIGH_M, strict=True)
        )
        if wanted and in_the_way and not info["privileged/cube_in_drawer"]:
            return SubGoal(what="cube", target=ASIDE_M)
        return wanted

    if goal.cube_goal_m == CUBE_IN_SHUT_DRAWER_M:
        off = cube - goal.cube_goal_m
        stowed = info["privileged/cube_in_drawer"] and (abs(off[0]) <= STOWED_X_M or np.linalg.norm(off) <= 0.038)
        if holding and abs(info["privileged/drawer_pos"] - DRAWER_OPEN_M) > 0.05 and not stowed:
            return SubGoal(what="cube", target=ASIDE_M)
        if holding or not stowed:
            return (None if holding else open_drawer()) or SubGoal(what="cube", target=CUBE_IN_OPEN_DRAWER_M)
    else:
        target = tuple(info["privileged/cube_goal_pos"])
        if np.linalg.norm(cube - target) > DONE_M or (holding and goal.cube_goal_m is not None):
            return SubGoal(what="cube", target=target)
    drawer = open_drawer() if goal.drawer_goal_m == DRAWER_OPEN_M else slide("drawer", goal.drawer_goal_m)
    if drawer:
        return drawer
    if buttons[0] != goal.buttons_goal[0]:
        return SubGoal(what="button_0", target=float(goal.buttons_goal[0]))
    window = slide("window", goal.window_goal_m)
    if window:
        return window
    if buttons[1] != goal.buttons_goal[1]:
        return SubGoal(what="button_1", target=float(goal.buttons_goal[1]))
    return SubGoal(what="none")


def holds_cube(info: Info) -> bool:
    """Whether the fingers press on something and the cube is between them."""
    reach = np.linalg.norm(info["proprio/effector_pos"] - info["privileged/block_0_pos"])
    return bool(info["proprio/gripper_contact"][0] > 0.1 and reach <= 0.03)


PLACES = {
    "cube": "privileged/block_0_pos",
    "button_0": "privileged/button_0_top_pos",
    "button_1": "privileged/button_1_top_pos",
    "drawer": "privileged/drawer_handle_pos",
    "window": "privileged/window_handle_pos",
}
RISE = np.array([0.0, 0.0, 1.0, 0.0, -1.0])
RELEASE = np.array([0.0, 0.0, 0.0, 0.0, -1.0])


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
            # OGBench's reset() draws these from numpy's global generator; the planner decides where to go.
            oracle._final_pos, oracle._final_yaw, oracle._step = np.array([0.425, 0.0, 0.3]), 0.0, 0

    def act(self, view: RobotView) -> FloatArray:
        """Return the next action (5,) in [-1, 1]."""
        info = view.privileged
        sub_goal = next_sub_goal(GOALS[view.task.name], info)
        action = self._act(sub_goal, info)
        return np.asarray(np.clip(action, -1, 1), dtype=np.float32)

    def _act(self, sub_goal: SubGoal, info: Info) -> Any:
        hand = info["proprio/effector_pos"]
        holding = holds_cube(info)
        if sub_goal.what == "none":
            return RISE
        if holding and sub_goal.what != "cube":
            return RELEASE
        place = info[PLACES[sub_goal.what]]
        oracle = self._oracles[sub_goal.what.split("_")[0]]
        oracles_action = oracle.select_action(None, self._targeted(sub_goal, info))
        if not _near(hand, place, ALIGNED_M):
            return RISE if hand[2] < self._travel_height(hand, info) else oracles_action
        above_m = hand[2] - place[2]
        if sub_goal.what.startswith("button") or holding or above_m < FINGERS_DOWN_M:
            return oracles_action
        # The window's handle may block centring beside it: for the cube, only a finger on top asks for it.
        if _near(hand, place, STRADDLE_M) or (sub_goal.what == "cube" and above_m > FINGER_ON_TOP_M):
            return oracles_action
        # Centre the open fingers over the object; keep turning as the oracle does.
        centre = 0.8 * (np.add(place, (0.0, 0.0, HOVER_M)) - hand) / 0.05
        return np.array([*centre, oracles_action[3], -1.0])

    @staticmethod
    def _travel_height(hand: Any, info: Info) -> float:
        at_window = hand[1] > NEAR_WINDOW_Y_M and _near(hand, info["privileged/window_handle_pos"], 0.10)
        return WINDOW_TRAVEL_HEIGHT_M if at_window else TRAVEL_HEIGHT_M

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
