"""A robot that is to stand still is told so at once, and again and again."""

import logging
import time
from collections.abc import Callable

from lwd.errors import RobotFault
from lwd.robots.protocol import Robot

REPEAT_S = 0.2
"""A hold is repeated so often: some bases go on with the last velocity they got, whatever their own watchdog is."""
_COMPLAIN_EVERY_S = 10.0

_logger = logging.getLogger(__name__)


class Holder:
    """Holds one robot, for the thread that steps it."""

    def __init__(self, robot: Robot, robot_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._robot, self._robot_id, self._clock = robot, robot_id, clock
        self._next_s = -float("inf")
        self._complain_s = -float("inf")
        self.fault = ""
        """Why the robot could not be held the last time; empty: it was held."""

    def moves(self) -> None:
        """The robot is about to be sent an action: the next hold is sent at once."""
        self._next_s = -float("inf")

    def hold(self) -> None:
        """Tell the robot to stand still, unless it was told less than `REPEAT_S` ago.

        Never raises for a robot that does not answer: whoever holds has more to do. The log says it, and `fault`.
        """
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + REPEAT_S
        try:
            self._robot.hold()
            self.fault = ""
        except RobotFault as error:
            self.fault = str(error)
            if now_s >= self._complain_s:
                self._complain_s = now_s + _COMPLAIN_EVERY_S
                _logger.error("robot %s: %s", self._robot_id, error)
