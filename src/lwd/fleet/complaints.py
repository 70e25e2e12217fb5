"""Log lines about what others send: one of a kind in ten seconds, with the number of those left out."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from lwd.fleet.rate_limit import TokenBucket

EVERY_S = 10.0
_KINDS = 256
_LINES_HZ, _LINES_AT_ONCE = 2.0, 30
"""Of all kinds together: their number is up to the senders, too."""


class Complaints:
    """Whoever sends a million wrong messages writes no million lines."""

    def __init__(
        self, logger: logging.Logger, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._every_s, self._clock = logger, every_s, clock
        self._lines = TokenBucket(_LINES_HZ, _LINES_AT_ONCE, clock=clock)
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def warn(self, kind: str, message: str, *arguments: object, level: int = logging.WARNING) -> None:
        """Log a line, unless one of this kind was logged a moment ago.

        Args:
            kind: what is counted together: who and why. Beyond 256 kinds the oldest is forgotten.
            message: as for `logging`; rendered only if it is logged.
        """
        now_s = self._clock()
        at_s, left_out = self._said.get(kind, (-float("inf"), 0))
        if kind not in self._said and len(self._said) >= _KINDS:
            self._said.popitem(last=False)
        if now_s - at_s < self._every_s or not self._lines.take():
            self._said[kind] = (at_s, left_out + 1)
            return
        self._said[kind] = (now_s, 0)
        self._said.move_to_end(kind)
        if left_out:
            self._logger.log(level, f"{message} (and %d more since the last such line)", *arguments, left_out)
        else:
            self._logger.log(level, message, *arguments)
