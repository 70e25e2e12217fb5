"""Stopping and releasing all robots from outside: `lwd stop`. Says of each host whether it did.

Files of the run come first, then the bus: each works without the other.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from lwd.errors import ConfigError, ServiceError, StoreError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.messages import HostHeartbeat, host_subject
from lwd.fleet.stop_bus import keep_stops, read_stops
from lwd.fleet.stop_files import StopFiles
from lwd.fleet.stop_messages import STOP_SUBJECT, STOPPED_SUBJECT, StopOrder, StopReport, StopState

_CONNECT_S = 2.0
_LISTEN_S = 1.5
"""So long every host has sent a heartbeat."""
_ASK_S = 0.7
"""So long hosts are given to say what stops them, before they are released."""
_TELL_EVERY_S = 0.5


@dataclass(kw_only=True)
class StopResult:
    """What became of a stop or a release."""

    done: dict[str, float] = field(default_factory=dict)
    """Hosts that confirmed, with the seconds that it took."""
    undone: dict[str, str] = field(default_factory=dict)
    """Hosts that did not, with what they say."""
    troubles: list[str] = field(default_factory=list)
    """What of the bus or the files did not work."""
    released: tuple[StopOrder, ...] = ()


class StopCall:
    """One stop or one release."""

    def __init__(self, files: StopFiles | None, bus: Callable[[], BusConfig], *, within_s: float) -> None:
        """
        Args:
            files: RUN/stop of this machine; None: there is no such run here.
            bus: asked for where the bus is.
            within_s: how long to wait for hosts to confirm.
        """
        self._files, self._bus_config, self._within_s = files, bus, within_s
        self._reports: dict[str, StopReport] = {}
        self._result = StopResult()
        self._is_kept = False
        self._kept_error = "the bus did not answer in time"

    async def stop(self, order: StopOrder) -> StopResult:
        """Tell everybody to stop whom the bus reaches; the files were written before."""
        begun_s = time.monotonic()
        state = self._filed().order(order)
        own = {stop.stop_id for stop in state.active if stop.by == order.by}

        def confirms(report: StopReport) -> bool:
            # Not one that holds for somebody else's stop alone: that one may be released first.
            return report.holds and not own.isdisjoint(stop.stop_id for stop in report.stops)

        async with self._connected() as bus:
            telling = asyncio.create_task(self._tell(bus, state)) if bus is not None else None
            await self._wait(bus, begun_s, confirms)
            await self._end(telling)
        return self._result

    async def release(self, by: str, reason: str) -> StopResult:
        """Release every stop that files, bus and hosts know of."""
        state = self._filed()
        async with self._connected() as bus:
            if bus is not None:
                try:
                    state = state.merged(await read_stops(bus))
                except ServiceError as error:
                    self._result.troubles.append(str(error))
                # Asks: each host answers with what stops it, be it a button that only it has heard.
                await bus.publish(STOP_SUBJECT, StopState())
                await asyncio.sleep(_ASK_S)
            self._look_at_files()
            for report in self._reports.values():
                state = state.merged(StopState(stops=report.stops))
            self._result.released = state.active
            begun_s = time.monotonic()
            state = state.released([stop.stop_id for stop in state.active], by, reason, time.time())
            if self._files is not None:
                try:
                    self._files.write(state)
                except StoreError as error:
                    self._result.troubles.append(str(error))
            self._reports.clear()
            telling = asyncio.create_task(self._tell(bus, state)) if bus is not None else None
            await self._wait(bus, begun_s, lambda report: report.time_s > 0 and not report.stops)
            await self._end(telling)
        return self._result

    def _filed(self) -> StopState:
        """Return what the files say; whatever is wrong with them, the bus is still told."""
        if self._files is None:
            return StopState()
        try:
            return self._files.read()
        except OSError as error:
            self._result.troubles.append(f"{self._files.directory} cannot be read ({error.strerror})")
            return StopState()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Bus | None]:
        bus = None
        try:
            bus = await Bus.connect(
                self._bus_config(), name=f"stop-{uuid.uuid4().hex[:8]}", timeout_s=min(_CONNECT_S, self._within_s)
            )
            await bus.subscribe(f"{STOPPED_SUBJECT}.*", StopReport, self._on_report)
            await bus.subscribe(host_subject("*"), HostHeartbeat, self._on_heartbeat)
        except (ServiceError, ConfigError) as error:
            self._result.troubles.append(str(error))
        try:
            yield bus
        finally:
            if bus is not None:
                await bus.close()

    async def _tell(self, bus: Bus, state: StopState) -> None:
        """Send the state again and again, and keep it for hosts that are away."""
        while True:
            with contextlib.suppress(ServiceError):
                await bus.publish(STOP_SUBJECT, state)
            if not self._is_kept:
                try:
                    state, self._is_kept = state.merged(await keep_stops(bus, state)), True
                except ServiceError as error:
                    self._kept_error = str(error)
            await asyncio.sleep(_TELL_EVERY_S)

    async def _end(self, telling: "asyncio.Task[None] | None") -> None:
        if telling is None:
            return
        if not self._is_kept:
            self._result.troubles.append(f"{self._kept_error}: a host that is away now will not hear of it")
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling

    async def _wait(self, bus: Bus | None, begun_s: float, confirms: Callable[[StopReport], bool]) -> None:
        """Wait until every host that is known confirms, or the time is up."""
        done = self._result.done
        while True:
            self._look_at_files()
            now_s = time.monotonic() - begun_s
            for host_id, report in self._reports.items():
                if confirms(report):
                    done.setdefault(host_id, now_s)
                else:
                    done.pop(host_id, None)
            is_all = len(done) == len(self._reports) and (bus is None or self._is_kept)
            if now_s >= self._within_s or (is_all and (now_s >= _LISTEN_S or (bus is None and now_s >= 0.5))):
                break
            await asyncio.sleep(0.02)
        for host_id, report in self._reports.items():
            if host_id not in done:
                said = [f"{robot.robot_id}: {robot.error}" for robot in report.robots if not robot.holds]
                self._result.undone[host_id] = "; ".join(said) if report.stops and said else "no answer"

    def _look_at_files(self) -> None:
        if self._files is None:
            return
        for report in self._files.hosts():
            known = self._reports.get(report.host_id)
            if known is None or report.time_s > known.time_s:
                self._reports[report.host_id] = report

    async def _on_report(self, report: StopReport) -> None:
        known = self._reports.get(report.host_id)
        if known is None or report.time_s > known.time_s:
            self._reports[report.host_id] = report

    async def _on_heartbeat(self, beat: HostHeartbeat) -> None:
        # Of a host that does not report it is not known whether it is stopped.
        if beat.state != "stopping":
            self._reports.setdefault(beat.host_id, StopReport(host_id=beat.host_id, time_s=0.0))
