"""How many commands one browser may send: what a person does is far below it."""

import time
from collections.abc import Callable


class CommandRate:
    """A token bucket."""

    def __init__(self, *, per_s: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._clock = clock
        self._tokens = float(at_once)
        self._last_s = clock()

    def allows(self) -> bool:
        """Count a command; return whether it may pass."""
        now_s = self._clock()
        self._tokens = min(self._at_once, self._tokens + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
