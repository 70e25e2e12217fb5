"""How far a task has come: sub-steps that are held, lost and won back.

A sub-step is *held* while its own condition holds or a later sub-step that needs it no longer is held (a drawer may be
locked again once it is shut). Scores follow the paper's annotation: 1 done, 0.5 done after a retry, 0 not done.
Source: arXiv 2605.00416, evaluation protocol; method.md section 7.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lwd.robots.sim.tasks import DRAWER_OPEN_M, SceneGoal

REACHED_M = 0.04
"""OGBench's own tolerance on cube, drawer and window."""
LOSS_GRACE_STEPS = 5
"""A condition must fail this long before its sub-step counts as lost; contact makes conditions flicker."""
REST_STEPS = 10
"""An object that stands still this long ends an attempt."""
MOVING_M = 0.001
"""Movement per control step above which an object counts as moving."""
ATTEMPT_M = 0.02
"""An object that moved less than this between two rests was touched, not tried."""


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
        return sum((a - b) ** 2 for a, b in zip(self.cube_m, self.cube_goal_m, strict=True)) <= REACHED_M**2


Held = Callable[[SceneState, Mapping[str, bool]], bool]


@dataclass(frozen=True, kw_only=True)
class SubStep:
    """One countable sub-step; `held` sees the sub-steps that come later in the task."""

    held: Held
    position: Callable[[SceneState], tuple[float, ...]] | None = None
    """Position in m of the object that it moves, for counting attempts; None for button presses."""


def _drawer(state: SceneState) -> tuple[float, ...]:
    return (state.drawer_m,)


def _window(state: SceneState) -> tuple[float, ...]:
    return (state.window_m,)


def _cube(state: SceneState) -> tuple[float, ...]:
    return state.cube_m


def sub_steps_of(names: tuple[str, ...], goal: SceneGoal) -> dict[str, SubStep]:
    """Return the sub-steps of one task, in their order."""
    stows_cube = "cube in drawer" in names

    def drawer_shut(state: SceneState) -> bool:
        return abs(state.drawer_m) <= REACHED_M and (state.cube_at_goal or not stows_cube)

    def drawer_open(state: SceneState) -> bool:
        return abs(state.drawer_m - DRAWER_OPEN_M) <= REACHED_M

    def window_there(state: SceneState) -> bool:
        return abs(state.window_m - goal.window_goal_m) <= REACHED_M

    known = {
        "press drawer button": SubStep(held=lambda s, later: s.buttons[0] == goal.buttons_goal[0]),
        "unlock drawer": SubStep(held=lambda s, later: s.buttons[0] == 1 or later.get("lock drawer", False)),
        "open drawer": SubStep(
            held=lambda s, later: drawer_open(s) or later.get("cube in drawer", False), position=_drawer
        ),
        "close drawer": SubStep(held=lambda s, later: drawer_shut(s), position=_drawer),
        "lock drawer": SubStep(held=lambda s, later: s.buttons[0] == 0 and drawer_shut(s)),
        "cube in drawer": SubStep(held=lambda s, later: s.cube_in_drawer or drawer_shut(s), position=_cube),
        "move cube": SubStep(held=lambda s, later: s.cube_at_goal, position=_cube),
        "unlock window": SubStep(held=lambda s, later: s.buttons[1] == 1 or later.get("lock window", False)),
        "open window": SubStep(held=lambda s, later: window_there(s), position=_window),
        "close window": SubStep(held=lambda s, later: window_there(s), position=_window),
        "lock window": SubStep(held=lambda s, later: s.buttons[1] == 0 and window_there(s)),
    }
    return {name: known[name] for name in names}


class _Attempts:
    """Counts the separate movements of an object while its sub-step is not held."""

    def __init__(self, start: tuple[float, ...]) -> None:
        self.count = 0
        self._last = start
        self._rest = start
        self._still = REST_STEPS
        self._counted = False

    def observe(self, position: tuple[float, ...]) -> None:
        moved = max(abs(a - b) for a, b in zip(position, self._last, strict=True))
        away = max(abs(a - b) for a, b in zip(position, self._rest, strict=True))
        self._last = position
        self._still = 0 if moved > MOVING_M else self._still + 1
        if self._still >= REST_STEPS:
            self._rest = position
            self._counted = False
        elif away >= ATTEMPT_M and not self._counted:
            self.count += 1
            self._counted = True


class Progress:
    """Scores the sub-steps of one episode."""

    def __init__(self, sub_steps: Mapping[str, SubStep], state: SceneState) -> None:
        self._sub_steps = sub_steps
        self._attained = dict.fromkeys(sub_steps, False)
        self._missing_for = dict.fromkeys(sub_steps, LOSS_GRACE_STEPS)
        self._retried = dict.fromkeys(sub_steps, False)
        self._attempts = {n: _Attempts(s.position(state)) for n, s in sub_steps.items() if s.position}
        self.observe(state)

    def observe(self, state: SceneState) -> tuple[float, ...]:
        """Take the state after a control step; return one score per sub-step."""
        held: dict[str, bool] = {}
        for name in reversed(self._sub_steps):
            held[name] = self._sub_steps[name].held(state, held)
        for name, sub_step in self._sub_steps.items():
            if sub_step.position and not self._attained[name]:
                self._attempts[name].observe(sub_step.position(state))
            if held[name]:
                lost = self._attained[name] and self._missing_for[name] >= LOSS_GRACE_STEPS
                tried = name in self._attempts and self._attempts[name].count > 1
                self._retried[name] = self._retried[name] or lost or (tried and not self._attained[name])
                self._attained[name] = True
                self._missing_for[name] = 0
            else:
                self._missing_for[name] += 1
        return tuple(
            0.0
            if not self._attained[n] or self._missing_for[n] >= LOSS_GRACE_STEPS
            else (0.5 if self._retried[n] else 1.0)
            for n in self._sub_steps
        )
