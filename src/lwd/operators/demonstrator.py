"""An operator that controls from the first step: for demonstrations, and for data that is bad on purpose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lwd.errors import ConfigError
from lwd.operators.protocol import Command, Expert, Intent, RobotView
from lwd.types import FloatArray, Task

EFFECTOR_POSITION = "proprio/effector_pos"
"""Key of the hand's position in `RobotView.privileged`; aim errors shift what the expert believes of it."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How an expert's actions are spoiled."""

    action_noise: float = 0.0
    """Standard deviation of Gaussian noise on every action, in action units."""
    aim_error_probability: float = 0.0
    """Chance per sub-step that the expert first aims beside its target, then corrects."""
    aim_error_m: float = 0.03
    aim_error_steps: int = 20
    lapse_probability: float = 0.0
    """Chance per step to begin a lapse: moving in one random direction, hand opening or closing at random."""
    lapse_steps: int = 15
    wander_steps: int = 0
    """If positive: pursue a task drawn at random for about this many steps, then another."""

    def __post_init__(self) -> None:
        for name in ("aim_error_probability", "lapse_probability"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} is {value}; it must be in [0, 1]")


class Demonstrator:
    """Controls a robot with an expert whose actions a `Behaviour` spoils; deterministic from the seed."""

    def __init__(self, expert: Expert, behaviour: Behaviour, *, distractions: tuple[Task, ...] = ()) -> None:
        if behaviour.wander_steps > 0 and not distractions:
            raise ConfigError("wander_steps is positive; name the tasks to wander between in `distractions`")
        self._expert = expert
        self._behaviour = behaviour
        self._distractions = distractions
        self._generator = np.random.default_rng(0)
        self._done = -1
        self._aim_until = self._lapse_until = self._wander_until = 0
        self._aim_offset: FloatArray = np.zeros(3, np.float32)
        self._lapse: FloatArray = np.zeros(5, np.float32)
        self._pursued: Task | None = None

    def begin(self, view: RobotView, seed: int) -> None:
        """Start over from the episode's seed."""
        self._generator = np.random.default_rng((seed, 0xDE30))
        self._done = -1
        self._aim_until = self._lapse_until = self._wander_until = 0
        self._pursued = None

    def poll(self, view: RobotView) -> Command:
        """Return the spoiled action of the expert."""
        action = self._lapsed(view) if self._in_lapse(view) else self._expert.act(self._as_believed(view))
        noise = self._generator.normal(0.0, 1.0, action.shape) * self._behaviour.action_noise
        spoiled = np.clip(action + noise, -1.0, 1.0).astype(np.float32)
        return Command(intent=Intent.TAKE_OVER, action=spoiled)

    def _as_believed(self, view: RobotView) -> RobotView:
        behaviour, generator = self._behaviour, self._generator
        if behaviour.wander_steps > 0:
            if view.step >= self._wander_until:
                self._pursued = self._distractions[int(generator.integers(len(self._distractions)))]
                self._wander_until = view.step + int(behaviour.wander_steps * generator.uniform(0.5, 1.5))
            view = replace(view, task=self._pursued or view.task)
        done = sum(score > 0 for score in view.sub_step_scores)
        if done != self._done:
            self._done = done
            if generator.random() < behaviour.aim_error_probability:
                direction = generator.normal(size=3) * (1.0, 1.0, 0.5)
                self._aim_offset = behaviour.aim_error_m * direction / np.linalg.norm(direction)
                self._aim_until = view.step + behaviour.aim_error_steps
        if view.step >= self._aim_until:
            return view
        believed: Mapping[str, Any] = {
            **view.privileged,
            EFFECTOR_POSITION: view.privileged[EFFECTOR_POSITION] + self._aim_offset,
        }
        return replace(view, privileged=believed)

    def _in_lapse(self, view: RobotView) -> bool:
        if view.step < self._lapse_until:
            return True
        if self._generator.random() >= self._behaviour.lapse_probability:
            return False
        self._lapse_until = view.step + int(self._behaviour.lapse_steps * self._generator.uniform(0.5, 1.5)) + 1
        self._lapse = self._generator.uniform(-0.7, 0.7, size=5).astype(np.float32)
        return True

    def _lapsed(self, view: RobotView) -> FloatArray:
        return self._lapse
