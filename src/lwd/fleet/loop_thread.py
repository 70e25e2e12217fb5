"""An asyncio loop in its own thread, so that robots and learners never wait for the network."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_CANCEL_AGAIN_S = 5.0
"""Longer than the orderly end of a connection."""


class LoopThread:
    """Runs coroutines for a synchronous program."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the background."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 30.0) -> T:
        """Run a coroutine and wait for its result.

        Raises:
            TimeoutError: if it takes longer.
        """
        return self.start(coroutine).result(timeout_s)

    def close(self) -> None:
        """Cancel what runs, wait for it, and end the thread."""
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self.loop).result(30.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30.0)
        self.loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        while tasks:
            for task in tasks:
                task.cancel()
            # Again, should one have lost its cancellation in a library (wait_for of Python 3.11 does that).
            done, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)
            for task in done:
                if not task.cancelled():
                    task.exception()  # looked at, so that asyncio does not complain of it
        await asyncio.get_running_loop().shutdown_default_executor()
