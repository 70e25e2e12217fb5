"""Bounds of what a request may send: its body is read whole, within a size and a time, before anything looks at it."""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 65_536
LOGIN_BODY_BYTES = 8_192
"""The longest password, of characters of four bytes, with its name."""
_SMALL = frozenset({"/api/login", "/api/session"})
_WITHIN_S = 10.0


class _TooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to a body that is too long, 408 to one that is too slow, and closes those connections."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = LOGIN_BODY_BYTES if scope["path"] in _SMALL else MAX_BODY_BYTES
        try:
            async with asyncio.timeout(_WITHIN_S):
                body = await _body(scope, receive, limit)
        except _TooLarge:
            await _refuse(413, f"the request's body is longer than {limit} bytes")(scope, receive, send)
        except TimeoutError:
            await _refuse(408, f"the request's body took longer than {_WITHIN_S:g} s")(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _again(body, receive), send)


def _refuse(status: int, words: str) -> JSONResponse:
    # What is still under way of the body must not be read.
    return JSONResponse({"detail": words}, status_code=status, headers={"Connection": "close"})


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """Return the body; None if the client has gone."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise _TooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _TooLarge
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, then waits for the client to go."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
