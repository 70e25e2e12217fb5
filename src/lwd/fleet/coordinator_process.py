"""`lwd coordinator`: drives a `Coordinator` by announcements from the bus and by listing the store."""

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lwd.data import durable
from lwd.data.outage import Outage
from lwd.data.run_store import open_run_store
from lwd.data.store import ObjectStore, StoreConfig, directory_of, probe_store
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError, ServiceError, StoreError
from lwd.fleet.bus import Bus, ReceivedAnnouncement
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator import BatchResult, Coordinator, Survey, candidate_of
from lwd.fleet.judging import Candidate
from lwd.fleet.liveness import alive
from lwd.fleet.messages import (
    COORDINATOR_SUBJECT,
    SNAPSHOT_SUBJECT,
    CoordinatorHeartbeat,
    SnapshotAnnouncement,
)
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.nats_server import read_url
from lwd.fleet.shares import StepShares
from lwd.fleet.suspects import Suspects
from lwd.types import Source

_RETRY_S = 0.5
_RECONNECT_WITHIN_S = 2.0
_BACKLOG_BATCH = 16
_BACKLOG_BYTES = 16 * 2**20
_LISTING_SHARE = 0.05
"""The most of the time that listing the store may take: large stores are listed less often."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """Settings of the coordinator's process."""

    run: Path
    """Run directory: metrics go there; store and bus are its own unless given."""
    store: StoreConfig | None = None
    """None: RUN/store."""
    bus: BusConfig | None = None
    """None: the embedded server's, from RUN/nats/url."""
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    batch: int = 128
    """The most episodes of one snapshot version."""
    linger_s: float = 0.25
    """How long an idle coordinator waits for an announcement before it looks at its other duties."""
    reconcile_s: float = 10.0
    """Time between two listings of the store."""
    heartbeat_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 10_000:
            raise ConfigError(f"batch is {self.batch}; it must lie in [1, 10000]")
        for name in ("linger_s", "reconcile_s", "heartbeat_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")


def store_of(run: Path, store: StoreConfig | None) -> ObjectStore:
    """Open the store of a run: the configured one, or RUN/store."""
    return open_run_store(run, store)


def bus_of(run: Path, bus: BusConfig | None) -> BusConfig:
    """Return the bus of a run: the configured one, or the embedded server's.

    Raises:
        ServiceError: if there is neither.
    """
    return bus or BusConfig(urls=(read_url(run / "nats"),))


def run_coordinator(config: CoordinatorConfig) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: if a file of the bus's configuration is missing or wrong.
        StoreUnsafe: if the store lets two writers both create one object.
        StoreError: if the store's log cannot be read.
    """
    if config.bus is not None:
        config.bus.client_options()
    store = store_of(config.run, config.store)
    probe_store(store)
    for directory in (
        config.run / "coordinator",
        directory_of(config.store or StoreConfig(url=str(config.run / "store"))),
    ):
        if directory is not None and (removed := durable.remove_leftovers(directory)):
            _logger.info("%d temporary files of killed processes removed from %s", removed, directory)
    suspects = Suspects(config.run / "coordinator" / "inspecting.json")
    asyncio.run(_Process(config, Coordinator(store, config.limits, suspects)).run())


class _Process:
    """Three loops: live announcements, the backlog that listings find, heartbeats. One that fails ends the others.

    A `Coordinator` is not thread-safe, and works in threads: `_turn` lets one batch at a time in, in the order of
    asking. So a live announcement waits for at most one small batch of the backlog.
    """

    def __init__(self, config: CoordinatorConfig, coordinator: Coordinator) -> None:
        self._config = config
        self._coordinator = coordinator
        self._metrics = MetricsFile(config.run, "coordinator")
        self._bus: Bus | None = None
        self._stop = asyncio.Event()
        self._turn = asyncio.Lock()
        self._backlog: deque[Candidate] = deque()
        self._listing: asyncio.Task[Survey] | None = None
        self._listing_since_s = 0.0
        self._next_listing_s = 0.0
        self._latencies_s: deque[float] = deque(maxlen=2048)
        self._committed = 0
        self._shares = StepShares()
        self._indexing: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        _logger.info("coordinator epoch %d at version %d", self._coordinator.epoch, self._coordinator.reader.version)
        loops = [
            asyncio.create_task(self._until_stopped("announcements cannot be dealt with", self._serve_live)),
            asyncio.create_task(self._until_stopped("the backlog cannot be worked off", self._work_off)),
            asyncio.create_task(self._heartbeats()),
        ]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                # The one that ended has an error: it is raised below, and the supervisor starts another process.
                self._stop.set()
            await asyncio.gather(*loops)
        finally:
            for task in (*loops, self._listing):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await task
            if self._indexing is not None:
                await self._indexing
            if self._bus is not None:
                await self._bus.close()
            self._metrics.close()

    async def _until_stopped(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        outage = Outage(what, "every robot keeps its spool")
        while not self._stop.is_set():
            try:
                await step()
                outage.succeeded()
            except (ServiceError, StoreError) as error:
                # Both heal by themselves or by an operator.
                outage.failed(error)
                await self._pause(_RETRY_S)

    async def _serve_live(self) -> None:
        """Deal with what was announced since the last look."""
        bus = await self._connected_bus()
        received = await bus.fetch_announcements(self._config.batch, self._config.linger_s)
        if not received:
            return
        result = await self._process([candidate_of(item.announcement) for item in received])
        await self._acknowledge(bus, received, result)

    async def _connected_bus(self) -> Bus:
        if self._bus is None or self._bus.closed:
            config = bus_of(self._config.run, self._config.bus)
            self._bus = await Bus.connect(config, name="coordinator", timeout_s=_RECONNECT_WITHIN_S)
            await self._announce_snapshot()
        return self._bus

    async def _work_off(self) -> None:
        """Find in the store what was never announced, or announced to a server that lost it, and deal with a little."""
        await self._list_if_due()
        if not self._backlog:
            await self._pause(min(self._config.linger_s, self._config.reconcile_s))
            return
        batch = self._next_of_backlog()
        try:
            await self._process(batch)
        except StoreError:
            self._backlog.extendleft(reversed(batch))
            raise

    async def _list_if_due(self) -> None:
        """Let a listing run beside everything else; a newer one replaces what is left of the one before."""
        if self._listing is None:
            if time.monotonic() >= self._next_listing_s:
                self._listing_since_s = time.monotonic()
                self._listing = asyncio.create_task(asyncio.to_thread(self._coordinator.survey))
            return
        if not self._listing.done():
            return
        listing, self._listing = self._listing, None
        survey = listing.result()
        took_s = time.monotonic() - self._listing_since_s
        self._next_listing_s = time.monotonic() + max(self._config.reconcile_s, took_s / _LISTING_SHARE)
        async with self._turn:
            self._coordinator.note(survey)
        if survey.found:
            _logger.info("the store holds %d episodes that are not in the log yet", len(survey.found))
        self._backlog = deque(survey.found)

    def _next_of_backlog(self) -> list[Candidate]:
        """Take a batch that is small in number and in bytes: live announcements wait for it."""
        batch = [self._backlog.popleft()]
        size_bytes = batch[0].size_bytes
        while self._backlog and len(batch) < min(_BACKLOG_BATCH, self._config.batch):
            size_bytes += self._backlog[0].size_bytes
            if size_bytes > _BACKLOG_BYTES:
                break
            batch.append(self._backlog.popleft())
        return batch

    async def _process(self, candidates: Sequence[Candidate]) -> BatchResult:
        async with self._turn:
            result = await asyncio.to_thread(self._coordinator.process, candidates)
            self._begin_index()
        now_s = time.time()
        self._latencies_s.extend(now_s - entry.uploaded_at_s for entry in result.committed)
        self._committed += len(result.committed)
        for entry in result.committed:
            if entry.source is Source.FLEET:
                self._shares.note(entry.robot_id, entry.steps)
        if result.committed:
            await self._announce_snapshot()
        return result

    def _begin_index(self) -> None:
        """Write an index beside the commits: its cost grows with the log, theirs must not."""
        if (index := self._coordinator.due_index()) is not None:
            self._indexing = asyncio.create_task(asyncio.to_thread(index.write))

    async def _announce_snapshot(self) -> None:
        if self._bus is None:
            return
        reader = self._coordinator.reader
        announcement = SnapshotAnnouncement(
            version=reader.version, epoch=reader.epoch, episodes=len(reader), committed_at_s=time.time()
        )
        await self._bus.publish(SNAPSHOT_SUBJECT, announcement)

    async def _acknowledge(self, bus: Bus, received: Sequence[ReceivedAnnouncement], result: BatchResult) -> None:
        for item in received:
            if item.announcement.key in result.missing:
                # Acknowledged all the same: should it appear, the listing finds it.
                _logger.warning("announced, but not in the store: %s", item.announcement.key)
            await bus.acknowledge(item)

    async def _heartbeats(self) -> None:
        while not self._stop.is_set():
            alive()
            reader = self._coordinator.reader
            latencies_s = np.asarray(self._latencies_s or [0.0])
            metrics = {
                "coordinator/episodes": float(len(reader)),
                "coordinator/committed": float(self._committed),
                "coordinator/quarantined": float(self._coordinator.quarantined),
                "coordinator/backlog": float(len(self._backlog)),
                "coordinator/robots_beyond_share": float(len(self._shares.beyond)),
                "coordinator/epoch": float(self._coordinator.epoch),
                "coordinator/connected": float(self._bus is not None and self._bus.connected),
            }
            if self._latencies_s:
                metrics["coordinator/commit_p50_s"] = float(np.quantile(latencies_s, 0.5))
                metrics["coordinator/commit_p99_s"] = float(np.quantile(latencies_s, 0.99))
            self._metrics.write(metrics, snapshot=reader.version)
            if self._bus is not None:
                beat = CoordinatorHeartbeat(
                    time_s=time.time(),
                    epoch=self._coordinator.epoch,
                    version=reader.version,
                    episodes=len(reader),
                    quarantined=self._coordinator.quarantined,
                )
                with contextlib.suppress(ServiceError):
                    await self._bus.publish(COORDINATOR_SUBJECT, beat)
            await self._pause(self._config.heartbeat_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
