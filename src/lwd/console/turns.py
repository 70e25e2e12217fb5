"""How many requests a second the console takes up: those beyond wait their turn, so that they cost next to nothing."""

import asyncio
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lwd.console.peers import network_of

_WAIT_S = 5.0
_KEYS = 4096


class Pace:
    """Requests per second by key, with some at once (GCRA)."""

    def __init__(self, *, per_s: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._each_s = 1 / per_s
        self._ahead_s = at_once / per_s
        self._clock = clock
        self._next_s: dict[str, float] = {}

    def wait_s(self, key: str) -> float:
        """Return in how many seconds a request's turn is."""
        return max(0.0, self._next_s.get(key, 0.0) - self._clock() - self._ahead_s)

    def take(self, key: str) -> None:
        """Count a request."""
        now_s = self._clock()
        if len(self._next_s) >= _KEYS:
            # Who is not ahead of time needs no entry.
            self._next_s = {each: next_s for each, next_s in self._next_s.items() if next_s > now_s}
        self._next_s[key] = max(now_s, self._next_s.get(key, 0.0)) + self._each_s


class Turns:
    """Lets requests wait for their turn: by person; of those who are not logged in, by peer and all together."""

    def __init__(self, app: ASGIApp, *, who: Callable[[Scope], str]) -> None:
        """
        Args:
            who: says who is logged in by a request's cookie; empty: nobody.
        """
        self._app = app
        self._who = who
        self._person = Pace(per_s=100, at_once=400)
        self._peer = Pace(per_s=50, at_once=100)
        self._strangers = Pace(per_s=100, at_once=200)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        paces: tuple[tuple[Pace, str], ...]
        if who := self._who(scope):
            paces = ((self._person, who),)
        else:
            client = scope.get("client")
            paces = ((self._peer, network_of(client[0] if client else "")), (self._strangers, ""))
        wait_s = max(pace.wait_s(key) for pace, key in paces)
        if wait_s > _WAIT_S and scope["type"] == "http":
            words, headers = "too many requests: wait a moment", {"Retry-After": "5", "Connection": "close"}
            await JSONResponse({"detail": words}, status_code=429, headers=headers)(scope, receive, send)
            return
        for pace, key in paces:
            pace.take(key)
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, _WAIT_S))
        await self._app(scope, receive, send)
