"""Operators that help when a robot is stuck, as a person at a console would."""

import numpy as np

from lwd.errors import ConfigError
from lwd.operators.protocol import OBSERVE, Command, Expert, Intent, RobotView, sub_steps_done
from lwd.types import Outcome


class ScriptedOperator:
    """Takes over after `patience` steps without a new sub-step, until the expert has finished that sub-step.

    Help is allowed in a fraction of the episodes, drawn from the episode's seed; so a fleet's data holds both
    corrected and uncorrected failures.
    """

    def __init__(self, expert: Expert, *, patience: int = 40, allowed_fraction: float = 0.4) -> None:
        if patience < 1:
            raise ConfigError(f"patience is {patience}; it counts control steps and must be at least 1")
        if not 0.0 <= allowed_fraction <= 1.0:
            raise ConfigError(f"allowed_fraction is {allowed_fraction}; it must be in [0, 1]")
        self._expert = expert
        self._patience = patience
        self._allowed_fraction = allowed_fraction
        self._allowed = False
        self._helping = False
        self._done = 0
        self._last_progress = 0

    def begin(self, view: RobotView, seed: int) -> None:
        """Decide from the seed whether this episode may be helped."""
        draw = np.random.default_rng((seed, 0x0E1F)).random()
        self._allowed = bool(draw < self._allowed_fraction)
        self._helping = False
        self._done = sub_steps_done(view)
        self._last_progress = view.step

    def poll(self, view: RobotView) -> Command:
        """Take over, go on helping, or observe."""
        done = sub_steps_done(view)
        if done > self._done:
            self._last_progress = view.step
            self._helping = False
        self._done = done
        if self._allowed and view.step - self._last_progress >= self._patience:
            self._helping = True
        if not self._helping:
            return OBSERVE
        return Command(intent=Intent.TAKE_OVER, action=self._expert.act(view))


class ScriptedHelper:
    """Helps a robot that has asked for it: drives from the first poll on until one more sub-step is done.

    Says that the episode has failed after `give_up_after` control periods without one.
    """

    def __init__(self, expert: Expert, *, give_up_after: int = 200) -> None:
        if give_up_after < 1:
            raise ConfigError(f"give_up_after is {give_up_after}; it counts control periods and must be at least 1")
        self._expert = expert
        self._give_up_after = give_up_after
        self._done = 0
        self._tries = 0

    def begin(self, view: RobotView, seed: int) -> None:
        """A robot was taken over."""
        self._done, self._tries = sub_steps_done(view), 0

    def poll(self, view: RobotView) -> Command:
        """Drive, hand back, or give up."""
        if sub_steps_done(view) > self._done:
            return OBSERVE
        self._tries += 1
        if self._tries > self._give_up_after:
            return Command(intent=Intent.LABEL, outcome=Outcome.FAILURE)
        return Command(intent=Intent.TAKE_OVER, action=self._expert.act(view))
