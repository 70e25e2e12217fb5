"""How old a plan may be when a real robot executes it.

A chunk is a plan from what was observed when the policy was asked. It may begin two control periods plus the policy's
usual time after that observation; each further action may begin two periods after it is due. Later the world is another
one, whatever made the host late: a stopped process, a hung policy, a busy machine. A simulation stands still meanwhile,
so there nothing is too old.
"""

import statistics
from collections import deque

LEAST_SLACK_S = 0.05
"""Two periods of a robot faster than 40 Hz are less than what an operating system takes to schedule a thread."""
FIRST_INFERENCE_S = 1.0
"""The policy's usual time before it was measured twice."""
_MEASURED = 10


class InferenceTimes:
    """The policy's usual time: the median of its last ten calls, so that a call in which all stood does not count."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_MEASURED)

    def note(self, seconds: float) -> None:
        """Count a call, also of a chunk that was too old: a slow policy's first chunks are."""
        self._seconds.append(seconds)

    @property
    def usual_s(self) -> float:
        return statistics.median(tuple(self._seconds)) if len(self._seconds) > 1 else FIRST_INFERENCE_S


class PlanAge:
    """Until when the next action of a plan may begin; seconds of one monotonic clock."""

    def __init__(self, control_hz: float) -> None:
        self._period_s = 1 / control_hz
        self.slack_s = max(2 * self._period_s, LEAST_SLACK_S)
        self._until_s = -float("inf")

    def begin(self, thought_s: float, now_s: float) -> bool:
        """A chunk is to replace what was queued; return whether it may begin.

        Args:
            thought_s: when its observation was taken, plus the policy's usual time.
        """
        if now_s > thought_s + self.slack_s:
            return False
        self._until_s = thought_s + self.slack_s
        return True

    def stepped(self, begun_s: float) -> None:
        """An action began: the next one is due a period later."""
        self._until_s = begun_s + self._period_s + self.slack_s

    def is_over(self, now_s: float) -> bool:
        """Whether the next action would begin too late."""
        return now_s > self._until_s
