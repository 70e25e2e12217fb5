"""How a person drives a robot by hand: what a deflection of a key, a pad or a stick does to each number of its action.

The robot's host computes this, not the operator's page: a page is late, and does not know where the robot stands.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lwd.types import Embodiment, FloatArray

Direction = Literal[
    "away", "towards you", "left", "right", "up", "down", "turn left", "turn right", "open hand", "close hand"
]
"""Ways to go as the robot's picture shows them. An operator's page has keys and pads for each."""
LEAD_S = 0.25
"""A target goes ahead of where the robot is measured by what full deflection moves it in so long, and no further."""


@dataclass(frozen=True, kw_only=True)
class DriveAxis:
    """One number of an action."""

    label: str
    low: float
    high: float
    speed: float
    """Of full deflection: if relative the number itself, if absolute its change per second."""
    absolute: bool = False
    """A position: a deflection moves it, and let go it stays. Else 0 is standing still, as of a velocity."""
    measured: int | None = None
    """Where in the robot's state an absolute one is measured; None: nowhere."""
    start: float | None = None
    """What an absolute one that is not measured is before an episode's first step; None: nobody knows."""
    minus: Direction | None = None
    """Where a deflection below 0 goes; None: a person knows it by its label."""
    plus: Direction | None = None
    keeps: bool = False
    """Standing still, an absolute one keeps its last command: a gripper told its measured width lets its load fall."""

    def still(self, state_S: FloatArray, executed: float | None) -> float | None:
        """Return the number that moves nothing; None where nobody knows it."""
        if not self.absolute:
            return 0.0
        if self.keeps and executed is not None:
            return executed
        if self.measured is not None:
            return self._within(float(state_S[self.measured]))
        return self.start if executed is None else executed

    def moved(self, target: float, deflection: float, state_S: FloatArray, control_hz: float) -> float:
        """Return the next number, of a deflection in [-1, 1]."""
        if not self.absolute:
            return self._within(deflection * self.speed)
        moved = target + deflection * self.speed / control_hz
        if self.measured is not None:
            # Two steps at least: what was sent is measured one step later.
            here, lead = float(state_S[self.measured]), self.speed * max(LEAD_S, 2 / control_hz)
            # Never backwards: a joint that its load pulls further down would be let down with each step.
            if deflection > 0:
                moved = max(target, min(moved, here + lead))
            elif deflection < 0:
                moved = min(target, max(moved, here - lead))
        return self._within(moved)

    def _within(self, number: float) -> float:
        return min(max(number, self.low), self.high)


@dataclass(frozen=True, kw_only=True)
class Driving:
    """How one robot is driven by hand, number by number of its action."""

    control_hz: float
    axes: tuple[DriveAxis, ...]

    @property
    def action_size(self) -> int:
        return len(self.axes)

    def still(self, state_S: FloatArray, executed_A: FloatArray | None) -> FloatArray | None:
        """Return the action (A,) of a robot that stands still; None where nobody knows where it stands.

        Args:
            state_S: what it measured last.
            executed_A: its last action of this episode; None before the first.
        """
        numbers = [
            axis.still(state_S, None if executed_A is None else float(executed_A[number]))
            for number, axis in enumerate(self.axes)
        ]
        return None if None in numbers else np.array(numbers, np.float32)

    def moved(self, target_A: FloatArray, deflection_A: FloatArray, state_S: FloatArray) -> FloatArray:
        """Return the action (A,) of the next control step.

        Args:
            target_A: the action before, or `still`.
            deflection_A: of each axis, in [-1, 1].
            state_S: what the robot measured last.
        """
        each = zip(self.axes, target_A.tolist(), deflection_A.tolist(), strict=True)
        return np.array(
            [axis.moved(target, deflection, state_S, self.control_hz) for axis, target, deflection in each], np.float32
        )


def drive_axis(
    label: str,
    low: float,
    high: float,
    *,
    absolute: bool = False,
    speed: float | None = None,
    measured: int | None = None,
    start: float | None = None,
    minus: Direction | None = None,
    plus: Direction | None = None,
    keeps: bool = False,
) -> DriveAxis:
    """Return an axis; without a speed at a quarter of its range per second, or at half its largest number."""
    usual = (high - low) / 4 if absolute else max(abs(low), abs(high)) / 2
    return DriveAxis(
        label=label,
        low=low,
        high=high,
        speed=usual if speed is None else speed,
        absolute=absolute,
        measured=measured,
        start=start,
        minus=minus,
        plus=plus,
        keeps=keeps,
    )


def hand_axis() -> DriveAxis:
    """Return a hand whose action is the force of its fingers: it stays when the key is let go, so nothing falls."""
    # Half a second from open to closed.
    return drive_axis("hand", -1, 1, absolute=True, speed=4, start=-1, minus="open hand", plus="close hand", keeps=True)


def relative_driving(embodiment: Embodiment) -> Driving:
    """Return how a robot of which no more is known is driven: every number is relative."""
    limits = zip(embodiment.action_low, embodiment.action_high, strict=True)
    axes = tuple(drive_axis(f"action {number}", low, high) for number, (low, high) in enumerate(limits, 1))
    return Driving(control_hz=embodiment.control_hz, axes=axes)
