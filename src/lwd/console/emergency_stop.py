"""The console's part of a stop of all robots: takes it from browsers, tells files and bus, shows which host holds.

Nothing on its way waits for store, learner, coordinator, audit log or disk. Without the bus the hosts that share the
run's directory with this console stop by its files, and everybody is told that others were not reached.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.params import Depends
from pydantic import BaseModel, ConfigDict, Field

from lwd.console.audit import AuditLog
from lwd.console.sessions import Session
from lwd.errors import ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.stop_bus import keep_stops, read_stops
from lwd.fleet.stop_files import StopFiles, StopFileThread
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_messages import (
    MAX_REASON,
    MAX_STOPS,
    STOP_SUBJECT,
    STOPPED_SUBJECT,
    StopId,
    StopReport,
    StopState,
    Words,
)

_TELL_EVERY_S = 1.0
_TELL_FOR_S = 10.0
"""How long a release is repeated for hosts that missed it; a stop is, as long as it lasts."""
_KEPT_S = 2.0
_SILENT_S = 5.0
_MAX_HOSTS = 4096


class EmergencyStop:
    """One console's stop. Its methods belong to the event loop."""

    def __init__(self, run: Path, audit: AuditLog, on_change: Callable[[], None]) -> None:
        """
        Args:
            run: the run's directory.
            on_change: called when what `view` returns has changed.
        """
        self._run = run
        self._latch = StopLatch()
        self._audit, self._on_change = audit, on_change
        self._reports: dict[str, tuple[float, StopReport]] = {}
        self._kept: StopState | None = None
        self._trouble = ""
        self._told_until_s = 0.0
        self._bus: Bus | None = None
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._files: StopFileThread | None = None
        self._latch.listen(self._ring)

    async def stop(self, by: str, reason: str) -> dict[str, Any]:
        """Stop all robots. Returns what is known at once (`view`)."""
        before = self._latch.state
        self._latch.stop(by, reason)
        self._changed()
        await self._tell()
        if self._latch.state != before:
            self._audit.append(by, "stop", reason=reason)
        return self.view()

    async def release(self, by: str, reason: str, stop_ids: tuple[str, ...]) -> dict[str, Any]:
        """Release the named stops; others go on."""
        before = self._latch.state
        self._latch.release(stop_ids, by, reason)
        self._changed()
        await self._tell()
        # Unlike a stop it may wait a moment: kept nowhere, it would leave hosts that are away now stopped.
        with suppress(TimeoutError):
            async with asyncio.timeout(_KEPT_S):
                await self._keep()
        if self._latch.state != before:
            self._audit.append(by, "stop released", reason=reason, stops=list(stop_ids))
        return self.view()

    def view(self) -> dict[str, Any]:
        """Return who stopped the robots, what each host says of it, and what does not work."""
        now_s = time.monotonic()
        return {
            "active": [stop.model_dump(mode="json") for stop in self._latch.active],
            "hosts": [
                {"age_s": round(now_s - at_s, 1), "holds": report.holds, **report.model_dump(mode="json")}
                for at_s, report in self._reports.values()
                if report.stops
            ],
            "trouble": self._what_fails(),
        }

    def _what_fails(self) -> str:
        if self._files is not None and self._files.complaint:
            return self._files.complaint
        if self._latch.is_set and (self._bus is None or not self._bus.connected):
            return "there is no message bus: only hosts on the console's machine are reached, by files"
        return self._trouble

    async def attach(self, bus: Bus) -> None:
        """Listen on a new connection, and tell it what happened while there was none."""
        await bus.subscribe(STOP_SUBJECT, StopState, self._on_state)
        await bus.subscribe(f"{STOPPED_SUBJECT}.*", StopReport, self._on_report)
        self._bus, self._kept = bus, None
        self._told_until_s = time.monotonic() + _TELL_FOR_S
        self._wake.set()

    async def run(self) -> None:
        """Repeat the state on the bus, and keep it there, for ever."""
        self._loop = asyncio.get_running_loop()
        self._files = await asyncio.to_thread(StopFileThread, StopFiles(self._run), self._latch)
        try:
            while True:
                await self._tell()
                await self._keep()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TELL_EVERY_S):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            self._files.close()

    async def _tell(self) -> None:
        if self._bus is None or not (self._latch.is_set or time.monotonic() < self._told_until_s):
            return
        with suppress(ServiceError):
            await self._bus.publish(STOP_SUBJECT, self._latch.state)

    async def _keep(self) -> None:
        """Bring the KV entry and the latch together, if one of them may have changed."""
        if self._bus is None or not self._bus.connected:
            self._kept = None
            return
        try:
            if self._kept is None:
                self._latch.merge(await read_stops(self._bus))
            if (state := self._latch.state) != self._kept:
                if state != StopState():
                    self._latch.merge(await keep_stops(self._bus, state))
                self._kept = state
            self._trouble = ""
        except ServiceError as error:
            self._trouble = f"{error}: a host that is away now will not hear of it"

    async def _on_state(self, state: StopState) -> None:
        self._latch.merge(state)

    async def _on_report(self, report: StopReport) -> None:
        now_s = time.monotonic()
        before = self._reports.pop(report.host_id, (0.0, None))[1]
        self._reports = {name: each for name, each in self._reports.items() if now_s - each[0] < _SILENT_S}
        if len(self._reports) < _MAX_HOSTS:
            self._reports[report.host_id] = (now_s, report)
        if before is None or (before.stops, before.robots) != (report.stops, report.robots):
            self._on_change()

    def _ring(self) -> None:
        """The latch has changed; in any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the console ends
                self._loop.call_soon_threadsafe(self._changed)

    def _changed(self) -> None:
        self._told_until_s = time.monotonic() + _TELL_FOR_S
        self._wake.set()
        self._on_change()


class StopWish(BaseModel):
    """Why all robots are to stop; may be empty."""

    model_config = ConfigDict(extra="forbid")

    reason: Words = ""


class Release(BaseModel):
    """Which stops are released, and why."""

    model_config = ConfigDict(extra="forbid")

    stop_ids: tuple[StopId, ...] = Field(min_length=1, max_length=MAX_STOPS)
    reason: Words = Field(min_length=1, max_length=MAX_REASON)


def add_stop_routes(
    app: FastAPI, stop: EmergencyStop, viewer: Depends, operator: Depends, refusals: dict[int | str, dict[str, Any]]
) -> None:
    """Everybody who is logged in may stop the robots; operators and administrators release them."""

    @app.get("/api/stop", dependencies=[viewer], responses=refusals)
    async def get_stop() -> dict[str, Any]:
        """Return who stopped the robots, and which hosts say that they hold."""
        return stop.view()

    @app.post("/api/stop", responses=refusals)
    async def post_stop(body: StopWish, session: Annotated[Session, viewer]) -> dict[str, Any]:
        """Stop all robots, at once, until somebody releases them."""
        return await stop.stop(session.name, body.reason)

    @app.post("/api/stop/release", responses=refusals)
    async def post_release(body: Release, session: Annotated[Session, operator]) -> dict[str, Any]:
        """Release stops, by their ids: one that came meanwhile goes on."""
        return await stop.release(session.name, body.reason, body.stop_ids)
