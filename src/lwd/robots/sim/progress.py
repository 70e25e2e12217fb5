"""How far a task has come: sub-steps that are held, lost and won back.

A sub-step is *held* while its own condition holds or a later sub-step that needs it no longer is held (a
drawer may be locked again once it is shut). Scores follow the paper's annotation: 1 done, 0.5 done after a
retry, 0 not done. A retry is a sub-step lost and won back, or won only after a second approach.
Source: arXiv 2605.00416, evaluation protocol; method.md section 7.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lwd.robots.sim.tasks import CUBE_IN_OPEN_DRAWER_M, DRAWER_OPEN_M, SceneGoal

REACHED_M = 0.04
"""OGBench's own tolerance on cube, drawer and window."""
LOSS_GRACE_STEPS = 5
"""A condition must fail this long before its sub-step counts as lost; contact makes conditions flicker."""
REST_STEPS = 10
"""An object that stands still this long ends an attempt."""
MOVING_M = 0.001
"""Movement per control step above which an object counts as moving."""
ATTEMPT_M = 0.02
"""An object that came less than this nearer to its goal between two rests was touched, not tried."""


@dataclass(frozen=True, kw_only=True)
class SceneState:
    """The few facts that sub-steps depend on."""

    cube_m: tuple[float, float, float]
    cube_goal_m: tuple[float, float, float]
    cube_in_drawer: bool
    buttons: tuple[int, int]
    drawer_m: float
    window_m: float

    @property
    def cube_at_goal(self) -> bool:
        return math.dist(self.cube_m, self.cube_goal_m) <= REACHED_M


Held = Callable[[SceneState, Mapping[str, bool]], bool]


@dataclass(frozen=True, kw_only=True)
class SubStep:
    """One countable sub-step; `held` sees the sub-steps that come later in the task."""

    held: Held
    distance_m: Callable[[SceneState], float] | None = None
    """How far the object that it moves is from where it should be, for counting attempts; None for
    buttons."""


def sub_steps_of(names: tuple[str, ...], goal: SceneGoal) -> dict[str, SubStep]:
    """Return the sub-steps of one task, in their order."""
    stows_cube = "cube in drawer" in names

    def drawer_shut(state: SceneState) -> bool:
        return abs(state.drawer_m) <= REACHED_M and (state.cube_at_goal or not stows_cube)

    def drawer_open(state: SceneState) -> bool:
        return abs(state.drawer_m - DRAWER_OPEN_M) <= REACHED_M

    def window_m(state: SceneState) -> float:
        return abs(state.window_m - goal.window_goal_m)

    def window_there(state: SceneState) -> bool:
        return window_m(state) <= REACHED_M

    def cube_m(state: SceneState) -> float:
        return math.dist(state.cube_m, CUBE_IN_OPEN_DRAWER_M if stows_cube else state.cube_goal_m)

    known = {
        "press drawer button": SubStep(held=lambda s, later: s.buttons[0] == goal.buttons_goal[0]),
        "unlock drawer": SubStep(held=lambda s, later: s.buttons[0] == 1 or later.get("lock drawer", False)),
        "open drawer": SubStep(
            held=lambda s, later: drawer_open(s) or later.get("cube in drawer", False),
            distance_m=lambda s: abs(s.drawer_m - DRAWER_OPEN_M),
        ),
        "close drawer": SubStep(held=lambda s, later: drawer_shut(s), distance_m=lambda s: abs(s.drawer_m)),
        "lock drawer": SubStep(held=lambda s, later: s.buttons[0] == 0 and drawer_shut(s)),
        "cube in drawer": SubStep(held=lambda s, later: s.cube_in_drawer or drawer_shut(s), distance_m=cube_m),
        "move cube": SubStep(held=lambda s, later: s.cube_at_goal, distance_m=cube_m),
        "unlock window": SubStep(held=lambda s, later: s.buttons[1] == 1 or later.get("lock window", False)),
        "open window": SubStep(held=lambda s, later: window_there(s), distance_m=window_m),
        "close window": SubStep(held=lambda s, later: window_there(s), distance_m=window_m),
        "lock window": SubStep(held=lambda s, later: s.buttons[1] == 0 and window_there(s)),
    }
    return {name: known[name] for name in names}


class _Attempts:
    """Counts the separate approaches of an object to its goal; a rest ends an approach."""

    def __init__(self, distance_m: float) -> None:
        self.count = 0
        self._last = distance_m
        self._rest = distance_m
        self._still = REST_STEPS
        self._counted = False

    def observe(self, distance_m: float) -> None:
        self._still = 0 if abs(distance_m - self._last) > MOVING_M else self._still + 1
        self._last = distance_m
        if self._still >= REST_STEPS:
            self._rest = distance_m
            self._counted = False
        elif self._rest - distance_m >= ATTEMPT_M and not self._counted:
            self.count += 1
            self._counted = True


class Progress:
    """Scores the sub-steps of one episode."""

    def __init__(self, sub_steps: Mapping[str, SubStep], state: SceneState) -> None:
        self._sub_steps = dict(sub_steps)
        self._attained = dict.fromkeys(sub_steps, False)
        self._missing_for = dict.fromkeys(sub_steps, LOSS_GRACE_STEPS)
        self._retried = dict.fromkeys(sub_steps, False)
        self._attempts = {
            name: _Attempts(step.distance_m(state)) for name, step in sub_steps.items() if step.distance_m
        }
        self.observe(state)

    def observe(self, state: SceneState) -> tuple[float, ...]:
        """Take the state after a control step; return one score per sub-step."""
        held: dict[str, bool] = {}
        for name in reversed(self._sub_steps):
            held[name] = self._sub_steps[name].held(state, held)
        for name, step in self._sub_steps.items():
            if step.distance_m and not self._attained[name]:
                self._attempts[name].observe(step.distance_m(state))
            if held[name]:
                self._retried[name] |= self._again(name)
                self._attained[name] = True
                self._missing_for[name] = 0
            else:
                self._missing_for[name] += 1
        return tuple(self._score(name) for name in self._sub_steps)

    def _again(self, name: str) -> bool:
        """Whether a sub-step that holds now was lost before, or took more than one attempt."""
        if self._attained[name]:
            return self._missing_for[name] >= LOSS_GRACE_STEPS
        return name in self._attempts and self._attempts[name].count > 1

    def _score(self, name: str) -> float:
        if not self._attained[name] or self._missing_for[name] >= LOSS_GRACE_STEPS:
            return 0.0
        return 0.5 if self._retried[name] else 1.0
