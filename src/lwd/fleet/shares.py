"""Whether one robot produces far more than the others: it would use up what the fleet may record."""

import logging
from collections import Counter, deque

_WINDOW = 256
"""Episodes that are looked at."""
_LEAST = 32
"""Episodes before anything is said: at the start one robot is simply first."""
_ROBOTS = 3
_FACTOR = 4.0

_logger = logging.getLogger(__name__)


class StepShares:
    """Follows the robots' control steps over the fleet's last episodes, and warns of who is far beyond the others."""

    def __init__(self) -> None:
        self._last: deque[tuple[str, int]] = deque()
        self._steps: Counter[str] = Counter()
        self.beyond: frozenset[str] = frozenset()
        """Robots with more than four times the steps that the others have on average."""

    def note(self, robot_id: str, steps: int) -> None:
        """Count a committed fleet episode."""
        self._last.append((robot_id, steps))
        self._steps[robot_id] += steps
        if len(self._last) > _WINDOW:
            oldest, gone = self._last.popleft()
            self._steps[oldest] -= gone
            if self._steps[oldest] <= 0:
                del self._steps[oldest]
        self._judge()

    def _judge(self) -> None:
        total, robots = sum(self._steps.values()), len(self._steps)
        judged = robots >= _ROBOTS and len(self._last) >= _LEAST
        beyond = frozenset(
            robot for robot, steps in self._steps.items() if judged and steps * (robots - 1) > _FACTOR * (total - steps)
        )
        for robot in sorted(beyond - self.beyond):
            _logger.warning(
                "robot %s has %d of the %d steps of the last %d episodes of %d robots: look at it, or stop it and "
                "`lwd data revoke --robot %s`",
                *(robot, self._steps[robot], total, len(self._last), robots, robot),
            )
        for robot in sorted(self.beyond - beyond):
            _logger.info("robot %s has its share of the fleet's steps again", robot)
        self.beyond = beyond
