"""A robot host's ear for stops on the bus, and what it tells of itself."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from lwd.errors import ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.stop_bus import read_stops
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_messages import STOP_SUBJECT, RobotHold, StopReport, StopState, stopped_subject

_LOOK_S = 2.0
_REPORT_S = 1.0

_logger = logging.getLogger(__name__)


class StopLink:
    """Brings a latch what the bus says, and the bus which robots hold. Sends no stop and no release itself.

    So a robot needs no right to publish on `lwd.stop`, and whoever steals its credentials stops and releases nobody.
    """

    def __init__(self, host_id: str, latch: StopLatch) -> None:
        self._host_id, self._latch = host_id, latch
        self.holds: Callable[[], tuple[RobotHold, ...]] = lambda: ()
        """Asked for every report."""
        self.is_known = False
        """Whether the bus was asked if the robots are stopped, or could not be: no robot moves before."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._is_asked = False
        self._complaint = ""
        latch.listen(self.ring)

    def ring(self) -> None:
        """Something has changed: report it. By any thread."""
        self._is_asked = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the host ends
                self._loop.call_soon_threadsafe(self._wake.set)

    async def attach(self, bus: Bus) -> None:
        """Listen on a new connection."""
        await bus.subscribe(STOP_SUBJECT, StopState, self._on_stop)

    async def run(self, bus: Callable[[], Bus | None]) -> None:
        """Look into the KV entry and report, for ever."""
        self._loop = asyncio.get_running_loop()
        next_look_s = 0.0
        while True:
            connection = bus()
            if connection is not None and connection.connected and time.monotonic() >= next_look_s:
                await self._look(connection)
                next_look_s = time.monotonic() + _LOOK_S
            if connection is not None and (self._is_asked or self._latch.is_set):
                self._is_asked = False
                with suppress(ServiceError):
                    await connection.publish(stopped_subject(self._host_id), self.report())
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S if self.is_known else 0.1):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self, bus: Bus) -> None:
        try:
            # A few seconds, should JetStream not answer; what comes on the subject counts meanwhile.
            self._latch.merge(await read_stops(bus))
            self._complaint = ""
        except ServiceError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _logger.warning("%s; robots go on as they are", error)
        self.is_known = True

    async def _on_stop(self, state: StopState) -> None:
        self._latch.merge(state)
        self.ring()

    def report(self) -> StopReport:
        """Return what this host tells of itself; any thread."""
        stops = self._latch.active
        # Of robots that move there is nothing to tell, and it would change with every step.
        robots = self.holds() if stops else ()
        return StopReport(host_id=self._host_id, time_s=time.time(), stops=stops, robots=robots)
