"""A wrong clock for one process."""

import time
from collections.abc import Sequence

Clock = Sequence[tuple[float, float]]
"""(seconds after the start of the process, seconds by which its clock is wrong from then on), in order."""


def set_clock(clock: Clock) -> None:
    """Make `time.time` of this process wrong; other clocks are not affected, as on a real machine."""
    if not clock:
        return
    start_s, right = time.monotonic(), time.time

    def wrong() -> float:
        passed_s = time.monotonic() - start_s
        return right() + [error_s for after_s, error_s in clock if passed_s >= after_s][-1]

    time.time = wrong
