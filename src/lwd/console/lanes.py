"""Threads for one kind of work: few, of their own, with a bounded queue that no one person fills."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from fastapi import HTTPException

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Quota:
    """How many jobs may wait or run, of everybody and of one person."""

    def __init__(self, what: str, *, everybody: int, each: int) -> None:
        """
        Args:
            what: such as "replays", for the refusal.
        """
        self._what = what
        self._everybody = everybody
        self._each = each
        self._of: Counter[str] = Counter()

    def enter(self, who: str) -> None:
        """
        Raises:
            HTTPException: 429 if there are too many.
        """
        if self._of[who] >= self._each or self._of.total() >= self._everybody:
            whose = "of yours" if self._of[who] >= self._each else "of all users"
            raise HTTPException(
                429, f"too many {self._what} {whose} are under way: wait a moment", headers={"Retry-After": "1"}
            )
        self._of[who] += 1

    def leave(self, who: str) -> None:
        self._of[who] -= 1
        if not self._of[who]:
            del self._of[who]


class Lane:
    """Blocking work that nothing else waits behind."""

    def __init__(self, what: str, *, threads: int, everybody: int, each: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"console-{what}")
        self._quota = Quota(what, everybody=everybody, each=each)

    async def run(self, who: str, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """Return what the work returns.

        Args:
            who: whose work it is.
        Raises:
            HTTPException: 429 if too much of it waits.
        """
        self._quota.enter(who)
        future = self._executor.submit(work, *arguments, **options)
        # Work goes on when its request ends: it counts until it is over.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._quota.leave, who))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
