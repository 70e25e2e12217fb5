"""When to try again what failed: exponential backoff with full jitter, cut short when something changed."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator

from lwd.errors import ServiceError, StoreError

FIRST_S, MOST_S = 0.5, 60.0

_logger = logging.getLogger(__name__)


class Retry:
    """One thing that is tried until it works, by any number of tasks of one event loop.

    While it fails, one task at a time tries. The rest after n failures in a row is uniform in
    [first_s, min(most_s, first_s * 2^n)]: a fleet that lost its store together does not come back as one.
    """

    def __init__(self, consequence: str, *, first_s: float = FIRST_S, most_s: float = MOST_S) -> None:
        """
        Args:
            consequence: what a failure means, for the log.
        """
        self._consequence = consequence
        self._first_s, self._most_s = first_s, most_s
        self._failures = 0
        self._due_s = 0.0
        self._one = asyncio.Lock()
        self._woken = asyncio.Event()
        self.error = ""
        """The last failure; empty while it works."""

    @property
    def failing(self) -> bool:
        return self._failures > 0

    @contextlib.asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Try once, after the rest that earlier failures ask for; StoreError and ServiceError count as failures.

        They are logged and do not leave the context. Call `succeeded` within it when something did work.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self.failing:
                await stack.enter_async_context(self._one)
                await self._rest()
            before = self._failures
            try:
                yield
            except (StoreError, ServiceError) as error:
                # Several tasks that were under way when it broke are one failure.
                self._failed(error, before + 1)

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures, self.error = 0, ""

    def wake(self) -> None:
        """Something changed, such as a connection that came back: try soon instead of resting to the end."""
        self._woken.set()

    def rest_s(self) -> float:
        """Draw how long to rest now."""
        # 2^30 is far beyond any cap; without the bound, days of failures make a number too large for a float.
        most_s = min(self._most_s, self._first_s * 2 ** min(self._failures, 30))
        return random.uniform(self._first_s, most_s)

    def _failed(self, error: Exception, failures: int) -> None:
        self._failures, self.error = failures, str(error)
        rest_s = self.rest_s()
        self._due_s = time.monotonic() + rest_s
        self._woken.clear()
        _logger.warning("%s; %s (try %d, the next in %.1f s)", error, self._consequence, failures, rest_s)

    async def _rest(self) -> None:
        while self.failing and (left_s := self._due_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), left_s)
                self._woken.clear()
                # Everybody else was woken by the same event.
                self._due_s = min(self._due_s, time.monotonic() + random.uniform(0, self._first_s))
