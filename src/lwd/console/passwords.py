"""Password checks in a process of their own, one at a time: bounded, and known browsers first."""

import asyncio
import contextlib
import heapq
import itertools
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass, field

from fastapi import HTTPException

from lwd.errors import ServiceError

_STRANGERS = 24
_KNOWN = 8
_EACH = 4
"""Checks that may wait: of browsers that are not known, of those that are, and of one peer."""
_WITHIN_S = 20.0
_TAKES_S = 0.2
_MAX_LINE = 65_536


@dataclass(order=True)
class _Check:
    rank: tuple[bool, int]
    question: bytes = field(compare=False)
    answer: asyncio.Future[bool] = field(compare=False)


class PasswordChecks:
    """Asks the worker process, which is started with the first check."""

    def __init__(self) -> None:
        self._waiting: list[_Check] = []
        self._number = itertools.count()
        self._counts: Counter[bool] = Counter()
        self._of: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def matches(self, password_hash: str, password: str, *, peer: str, known: bool) -> bool:
        """Return whether a password is the one that was hashed.

        Args:
            peer: who asks; few checks of one wait at a time.
            known: whether the browser has logged in to this account before: it need not wait for strangers.
        Raises:
            HTTPException: 429 if too many wait.
            ServiceError: if the process does not answer.
        """
        self.require_room(peer=peer, known=known)
        loop = asyncio.get_running_loop()
        question = json.dumps({"hash": password_hash, "password": password}).encode() + b"\n"
        check = _Check((not known, next(self._number)), question, loop.create_future())
        heapq.heappush(self._waiting, check)
        self._counts[known] += 1
        self._of[peer] += 1
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        try:
            return await check.answer
        finally:
            self._counts[known] -= 1
            self._of[peer] -= 1
            if not self._of[peer]:
                del self._of[peer]

    def require_room(self, *, peer: str, known: bool) -> None:
        """
        Raises:
            HTTPException: 429 if too many checks wait.
        """
        if self._counts[known] >= (_KNOWN if known else _STRANGERS) or self._of[peer] >= _EACH:
            wait_s = math.ceil(_TAKES_S * sum(self._counts.values()))
            raise HTTPException(
                429, f"too many people log in at once: wait {wait_s} s", headers={"Retry-After": str(wait_s)}
            )

    async def close(self) -> None:
        """End the process; whoever still waits gets an error."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for check in self._waiting:
            check.answer.cancel()
        await self._end()

    async def _work(self) -> None:
        while self._waiting:
            check = heapq.heappop(self._waiting)
            if check.answer.done():
                continue
            try:
                answer = await self._ask(check.question)
            except ServiceError as error:
                await self._end()
                if not check.answer.done():
                    check.answer.set_exception(error)
            else:
                if not check.answer.done():
                    check.answer.set_result(answer)

    async def _ask(self, question: bytes) -> bool:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lwd.console.niced", "lwd.console.password_worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_WITHIN_S):
                self._process.stdin.write(question)
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except (TimeoutError, ConnectionError) as error:
            raise ServiceError("the process that checks passwords does not answer: try again") from error
        if line not in (b"true\n", b"false\n"):
            raise ServiceError("the process that checks passwords has ended: try again; its output is in the log")
        return line == b"true\n"

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
