"""Something that a store or a bus refuses for a while: when to try again, what to say, and when to give up."""

import logging
import time

from lwd.errors import StoreError

FIRST_REST_S, MOST_REST_S = 1.0, 60.0

_logger = logging.getLogger(__name__)


class Outage:
    """Says once that something fails, and once that it works again; rests twice as long after each further failure."""

    def __init__(self, what: str, meanwhile: str, *, most_s: float | None = None) -> None:
        """
        Args:
            what: what is tried, such as "the log cannot be read".
            meanwhile: what goes on without it.
            most_s: how long it may fail before `lost` says so; None: for ever.
        """
        self._what, self._meanwhile, self._most_s = what, meanwhile, most_s
        self._since_s = self._next_s = 0.0
        self._failures = 0
        self.lost: StoreError | None = None
        """The last error, once it has lasted for longer than `most_s`."""

    @property
    def due(self) -> bool:
        """Whether the rest after the last failure is over."""
        return time.monotonic() >= self._next_s

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def failed(self, error: Exception) -> None:
        """Note a failure."""
        now_s = time.monotonic()
        if not self._failures:
            self._since_s = now_s
            limit = "" if self._most_s is None else f" for up to {self._most_s / 60:g} min"
            _logger.warning("%s (%s): %s; trying again%s", self._what, error, self._meanwhile, limit)
        elif self._most_s is not None and now_s - self._since_s > self._most_s:
            self.lost = StoreError(f"{self._what} for {(now_s - self._since_s) / 60:.0f} min ({error})")
            self.lost.__cause__ = error
        self._next_s = now_s + min(FIRST_REST_S * 2 ** min(self._failures, 10), MOST_REST_S)
        self._failures += 1

    def succeeded(self) -> None:
        """Note that it works."""
        if self._failures:
            _logger.warning("works again after %.0f s: %s", time.monotonic() - self._since_s, self._what)
        self._failures, self._next_s, self.lost = 0, 0.0, None
