"""When a robot asks for an operator. The protocol carries a reason in words, so any scorer can stand here."""

from typing import Protocol

from lwd.errors import ConfigError
from lwd.operators.protocol import RobotView, sub_steps_done


class HelpRule(Protocol):
    """Looks at one robot's episodes and says why it needs a person."""

    def begin(self, view: RobotView) -> None:
        """A new episode begins."""

    def observe(self, view: RobotView) -> str:
        """Return why the robot needs help now; empty if it does not. Asked before each step."""


class StuckRule:
    """Asks for help after `patience` steps without a new sub-step."""

    def __init__(self, *, patience: int) -> None:
        if patience < 1:
            raise ConfigError(f"help_patience is {patience}; it counts control steps and must be at least 1")
        self._patience = patience
        self._done = 0
        self._progress_at = 0

    def begin(self, view: RobotView) -> None:
        """Count from the episode's start."""
        self._done, self._progress_at = sub_steps_done(view), view.step

    def observe(self, view: RobotView) -> str:
        """Return the reason, with the number of steps that it asks after."""
        if (done := sub_steps_done(view)) > self._done:
            self._progress_at = view.step
        self._done = done
        return f"no progress for {self._patience} steps" if view.step - self._progress_at >= self._patience else ""
