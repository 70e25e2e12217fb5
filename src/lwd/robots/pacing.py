"""Control periods that follow each other without a gap."""

import time
from collections.abc import Callable


class Pacer:
    """Waits for the end of each control period; time that the caller takes is part of the period."""

    def __init__(
        self,
        control_hz: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_s = 1 / control_hz
        self._clock, self._sleep = clock, sleep
        self._end_s = clock()
        self.overruns = 0
        """Periods that took longer than they may."""

    def begin(self) -> None:
        """The first period begins now."""
        self._end_s = self._clock()

    def rest(self, seconds: float) -> None:
        """Wait for a time that belongs to no period."""
        self._sleep(seconds)

    def wait(self) -> None:
        """Wait for the end of the period. After an overrun a new one begins now: what was lost is not caught up on."""
        self._end_s += self._period_s
        left_s = self._end_s - self._clock()
        if left_s >= 0:
            self._sleep(left_s)
        else:
            self.overruns += 1
            self._end_s = self._clock()
