"""What LWD asks of a robot, real or simulated."""

from collections.abc import Mapping
from typing import Any, Protocol

from lwd.types import Embodiment, FloatArray, Observation, StepResult, Task


class Robot(Protocol):
    """One robot. `reset` and `step` block for as long as the hardware needs."""

    @property
    def embodiment(self) -> Embodiment:
        """The robot's state layout, cameras and action limits."""

    def reset(self, task: Task, seed: int) -> Observation:
        """Bring robot and scene to a random start of the task; the same seed gives the same start."""

    def step(self, action: FloatArray) -> StepResult:
        """Execute one action (A,) for one control period.

        Raises:
            ActionRejected: if the action has the wrong shape or is not finite. Finite actions are clipped to
            the
                limits.
        """

    def privileged(self) -> Mapping[str, Any]:
        """What a simulator knows beyond the observation (for scripted experts); empty on real robots."""

    def close(self) -> None:
        """Release the hardware or the simulator."""
