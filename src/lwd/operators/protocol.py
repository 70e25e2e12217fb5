"""Who may take over a robot, and what they can tell it."""

from typing import Protocol

from lwd.types import OBSERVE, Command, FloatArray, Intent, RobotView

__all__ = ["OBSERVE", "Command", "Expert", "Intent", "Operator", "RobotView"]


class Operator(Protocol):
    """A human, a script or a device that may take over one robot."""

    def begin(self, view: RobotView, seed: int) -> None:
        """A new episode begins."""

    def poll(self, view: RobotView) -> Command:
        """Say what to do at the next step."""


class Expert(Protocol):
    """Something that knows how to do the tasks of one embodiment, without noise and from any state."""

    def act(self, view: RobotView) -> FloatArray:
        """Return the next action (A,), within the embodiment's limits."""
