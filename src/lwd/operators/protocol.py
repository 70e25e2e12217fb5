"""Who may take over a robot, and what they can tell it."""

from typing import Protocol, runtime_checkable

from lwd.types import HOLD, OBSERVE, Command, FloatArray, Intent, RobotView

__all__ = ["HOLD", "OBSERVE", "Command", "Expert", "Intent", "Operator", "RobotView", "sub_steps_done"]


class Operator(Protocol):
    """A human, a script or a device that may take over one robot."""

    def begin(self, view: RobotView, seed: int) -> None:
        """A new episode begins."""

    def poll(self, view: RobotView) -> Command:
        """Say what to do at the next step."""


@runtime_checkable
class DeviceOperator(Protocol):
    """An operator with a device, which is connected before the robot goes to its start, and closed at the end."""

    def connect(self) -> None:
        """Connect what is not connected, or has failed.

        Raises:
            OperatorFault: if it cannot be.
        """

    def close(self) -> None:
        """Release the device, whatever state it is in."""


class Expert(Protocol):
    """Something that knows how to do the tasks of one embodiment, without noise and from any state."""

    def act(self, view: RobotView) -> FloatArray:
        """Return the next action (A,), within the embodiment's limits."""


def sub_steps_done(view: RobotView) -> int:
    """Return how many sub-steps of its task a robot has done by now."""
    return sum(score > 0 for score in view.sub_step_scores)
