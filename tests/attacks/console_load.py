"""Everything at once that strangers and a viewer may do to a console: `python -m tests.attacks.console_load URL ...`.

URL VIEWER_PASSWORD SECONDS EPISODE_ID ...; prints as JSON what it was answered. It goes on until its time is over.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
from websockets.asyncio.client import ClientConnection, connect

from . import raw_http

LOGINS, REPLAYS, HALVES = 40, 60, 1024
_JSON = json.dumps({"name": "operator", "password": [[[]] for _ in range(220_000)]}).encode()


class Load:
    def __init__(self, url: str, password: str, seconds: float, episode_ids: list[str]) -> None:
        self._url = url
        self._password = password
        self._episode_ids = itertools.cycle(episode_ids)
        self._end_s = time.monotonic() + seconds
        self.answers: Counter[str] = Counter()

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits) as viewer:
            body = {"name": "viewer", "password": self._password}
            begun = await viewer.post("/api/login", json=body)
            viewer.headers["X-CSRF-Token"] = begun.json()["csrf"]
            cookie = "; ".join(f"{name}={value}" for name, value in viewer.cookies.items())
            live = f"{self._url.replace('http', 'ws')}/api/live"
            offered = ["lwd.live", f"csrf.{viewer.headers['X-CSRF-Token']}"]
            headers = {"cookie": cookie}
            # Before the others: this one process is too slow to send a request in time among its own half ones.
            tab = await connect(live, additional_headers=headers, origin=self._url, subprotocols=offered)
            await asyncio.gather(
                *(self._again("login", self._login) for _ in range(LOGINS)),
                *(self._again("replay", lambda: self._replay(viewer)) for _ in range(REPLAYS)),
                *(self._again("half", lambda: self._half(10)) for _ in range(HALVES)),
                *(self._again("json", self._json) for _ in range(2)),
                *(self._again("body", self._body) for _ in range(2)),
                self._takes(tab),
            )
            await tab.close()

    async def _again(self, what: str, once: Callable[[], Awaitable[object]]) -> None:
        while time.monotonic() < self._end_s:
            try:
                answer = await once()
            except (OSError, httpx.HTTPError) as error:
                answer = type(error).__name__
            self.answers[f"{what}: {answer}"] += 1
            # A stranger has a machine of their own; this one shares the console's.
            await asyncio.sleep(0.5)

    async def _login(self) -> int:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            return (await client.post("/api/login", json={"name": "operator", "password": "a guess"})).status_code

    async def _replay(self, viewer: httpx.AsyncClient) -> int:
        return (await viewer.get(f"/api/episodes/{next(self._episode_ids)}/track")).status_code

    async def _json(self) -> int:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            return (await client.post("/api/login", content=_JSON)).status_code

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._url.partition("://")[2].partition(":")
        return await asyncio.open_connection(host, int(port))

    async def _half(self, seconds: float) -> str:
        reader, writer = await self._open()
        try:
            writer.write(b"GET /api/session HTTP/1.1\r\nHost: ")
            async with asyncio.timeout(seconds):
                await reader.read()
            return "closed"
        except TimeoutError:
            return "open"
        finally:
            writer.transport.abort()

    async def _body(self) -> str:
        _, writer = await self._open()
        try:
            writer.write(raw_http.head(self._url, "POST", "/api/logout", f"Content-Length: {600 << 20}"))
            for _ in range(600):
                writer.write(bytes(1 << 20))
                async with asyncio.timeout(10):
                    await writer.drain()
            return "taken"
        except TimeoutError:
            return "stopped"
        finally:
            writer.transport.abort()

    async def _takes(self, tab: ClientConnection) -> None:
        command = {"kind": "command", "robot_id": "robot-0", "verb": "take", "request_id": "x"}

        async def listen() -> None:
            async for text in tab:
                if '"answer"' in str(text):
                    self.answers[f"take: {json.loads(text)['refused'][:24]}"] += 1

        listening = asyncio.create_task(listen())
        while time.monotonic() < self._end_s:
            for _ in range(20):
                await tab.send(json.dumps(command))
            await asyncio.sleep(0.1)
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


if __name__ == "__main__":
    os.nice(10)
    load = Load(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:])
    asyncio.run(load.run())
    print(json.dumps(load.answers, indent=1))
