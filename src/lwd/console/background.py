"""Tasks that a process needs for as long as it runs: if one dies, the process ends, and says why."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

_logger = logging.getLogger(__name__)


def end_process() -> None:
    """Ask this process to stop in order, as whoever supervises it would."""
    os.kill(os.getpid(), signal.SIGTERM)


class Background:
    """Starts tasks that run until they are cancelled."""

    def __init__(self, on_death: Callable[[], None] = end_process) -> None:
        """
        Args:
            on_death: called once, after `failure` is set.
        """
        self._on_death = on_death
        self._tasks: list[asyncio.Task[None]] = []
        self.failure = ""
        """Which task died, and of what; empty while all are well."""

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that never ends by itself."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    async def close(self) -> None:
        """Cancel all tasks and wait for them."""
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or self.failure:
            return
        error = task.exception()
        self.failure = f"{task.get_name()} has ended ({type(error).__name__}: {error})"
        _logger.critical("%s: this process ends, so that it is started again", self.failure, exc_info=error)
        self._on_death()
