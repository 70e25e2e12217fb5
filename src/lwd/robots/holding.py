"""A robot that is to stand still is told so at once, and again and again."""

import logging
import time
from collections.abc import Callable

from lwd.robots.gate import Gate

REPEAT_S = 0.2
"""A hold is repeated so often: some bases go on with the last velocity they got, whatever their own watchdog is."""
_COMPLAIN_EVERY_S = 10.0

_logger = logging.getLogger(__name__)


class Holder:
    """Holds one robot, for the thread that steps it."""

    def __init__(self, gate: Gate, robot_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate, self._robot_id, self._clock = gate, robot_id, clock
        self._next_s = -float("inf")
        self._complain_s = -float("inf")

    def moves(self) -> None:
        """The robot is about to be sent an action: the next hold is sent at once."""
        self._next_s = -float("inf")

    def hold(self) -> None:
        """Tell the robot to stand still, unless it was told less than `REPEAT_S` ago.

        Never raises for a robot that does not answer: whoever holds has more to do. The log says it, and the gate.
        """
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + REPEAT_S
        if not self._gate.hold() and now_s >= self._complain_s:
            self._complain_s = now_s + _COMPLAIN_EVERY_S
            _logger.error("robot %s is not known to hold: %s", self._robot_id, self._gate.error)
