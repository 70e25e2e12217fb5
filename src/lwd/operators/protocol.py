"""Who may take over a robot, and what they can tell it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from lwd.types import FloatArray, Observation, Outcome, Task


@dataclass(frozen=True, kw_only=True)
class RobotView:
    """What an operator sees of a robot before each step."""

    robot_id: str
    task: Task
    step: int
    """Control steps since the episode began."""
    observation: Observation
    sub_step_scores: tuple[float, ...]
    privileged: Mapping[str, Any]


class Intent(StrEnum):
    OBSERVE = "observe"
    TAKE_OVER = "take_over"
    LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class Command:
    """An operator's wish for the next step.

    TAKE_OVER executes `action` instead of the policy's; the operator releases the robot by observing again.
    LABEL ends the episode with `outcome`.
    """

    intent: Intent
    action: FloatArray | None = None
    outcome: Outcome | None = None


OBSERVE = Command(intent=Intent.OBSERVE)


class Operator(Protocol):
    """A human, a script or a device that may take over one robot."""

    def begin(self, view: RobotView, seed: int) -> None:
        """A new episode begins."""

    def poll(self, view: RobotView) -> Command:
        """Say what to do at the next step."""
