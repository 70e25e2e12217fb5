"""The network side of a robot host, in its own thread: episodes out, policies in, heartbeats both ways.

Robots hand an episode over and go on; they never wait for a disk, a store or the bus. The one exception is
deliberate: while many episodes are not even in the spool (its disk is full), robots begin no new ones.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from lwd.data.outage import Outage
from lwd.data.store import ObjectStore
from lwd.errors import ConfigError, ServiceError, StoreError
from lwd.fleet.backoff import Backoff
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.console_link import ConsoleLink
from lwd.fleet.loop_thread import LoopThread
from lwd.fleet.messages import (
    LEARNER_SUBJECT,
    POLICY_SUBJECT,
    SNAPSHOT_SUBJECT,
    HostHeartbeat,
    LearnerHeartbeat,
    PolicyPointer,
    RobotStatus,
    SnapshotAnnouncement,
    host_subject,
)
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_link import StopLink
from lwd.types import Episode

HostState = Literal["waiting for a policy", "running", "waiting for the learner", "spool full", "stopping"]
_POLICY_LOOK_S = 5.0
_LOG_LOOK_S = 2.0
_ADOPT_EVERY_S = 30.0
_RETRY_S = 1.0
_WATCHED_HEARTBEAT_S = 0.25
"""The same while somebody watches: a new episode must show at once."""
MAX_UNSPOOLED = 64

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HostStatus:
    """What the robots' thread tells the world; replaced as a whole."""

    state: HostState = "waiting for a policy"
    env_steps: int = 0
    episodes: int = 0
    running_steps: int = 0
    """Steps of the episodes that are running now."""
    robots: tuple[RobotStatus, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    shortage: str = ""
    """Why no episode begins, in state "spool full"."""


class HostNetwork:
    """Everything of a host that waits for something. The public methods belong to the robots' thread."""

    def __init__(
        self,
        *,
        host_id: str,
        bus: Callable[[], BusConfig],
        store: ObjectStore,
        shipper: Shipper,
        policies: PolicyFollower,
        metrics: MetricsFile,
        heartbeat_s: float,
        console: ConsoleLink | None = None,
        latch: StopLatch | None = None,
    ) -> None:
        """
        Args:
            bus: asked again at every try to connect, for a server that moved.
            console: the link for remote operators; None: this host's robots have none.
            latch: whether the robots are stopped; None: only the bus stops them.
        """
        self.status = HostStatus()
        self.latch = latch or StopLatch()
        self.stops = StopLink(host_id, self.latch)
        self.alarm = ""
        """Why the robots hold, other than by their operators; told with every heartbeat."""
        self.console = console or ConsoleLink(host_id, {})
        self.console.latch = self.latch
        self.policies = policies
        self._host_id = host_id
        self._bus_config = bus
        self._store = store
        self._shipper = shipper
        self._metrics = metrics
        self._heartbeat_s = heartbeat_s
        self._bus: Bus | None = None
        self._learner: LearnerHeartbeat | None = None
        self._lock = threading.Lock()
        self._unspooled: list[Episode] = []
        self._thread = LoopThread(f"network of {host_id}")
        self._wake_spool = asyncio.Event()
        self._wake_upload = asyncio.Event()
        self._wake_announce = asyncio.Event()
        self._wake_upload_again = asyncio.Event()
        self._wake_announce_again = asyncio.Event()
        self._upload_error = ""
        self._wake_log = asyncio.Event()
        self._wake_policy = asyncio.Event()
        # Before anything else, so that `drain` knows what an earlier process left behind.
        self._thread.call(shipper.adopt())
        self._running: Future[None] = self._thread.start(self._run())

    def note_alarm(self, alarm: str) -> None:
        """Tell why all robots hold; empty: they need not. By any thread."""
        self.alarm = alarm
        self.console.note_alarm(alarm)

    def submit(self, episode: Episode) -> None:
        """Hand over a finished episode."""
        with self._lock:
            self._unspooled.append(episode)
        self._thread.loop.call_soon_threadsafe(self._wake_spool.set)

    def check(self) -> None:
        """Raise what ended the network thread, if anything did."""
        if not self._running.done():
            return
        try:
            self._running.result()
        except BaseExceptionGroup as group:
            # One task failed and the others were cancelled for it.
            raise group.exceptions[0] from group

    @property
    def waiting(self) -> int:
        """Episodes of this host that are not known to be committed."""
        return len(self._unspooled) + self._shipper.waiting

    @property
    def unspooled(self) -> int:
        """Finished episodes that are not even in the spool yet."""
        return len(self._unspooled)

    def learner_is_behind(self, *, real: bool) -> bool:
        """Whether the fleet has as many steps as the learner allows real or simulated robots for now."""
        if self._learner is None:
            return False
        allowed = self._learner.real_env_steps_allowed if real else self._learner.env_steps_allowed
        if allowed is None:
            return False
        with self._lock:
            unspooled = sum(episode.steps for episode in self._unspooled)
        own = self._shipper.waiting_steps + unspooled + self.status.running_steps
        return self._shipper.fleet_steps + own >= allowed

    def shortage(self, running: int) -> str:
        """Say why no episode may begin beside `running` others; empty if one may.

        The spool's budget is used up, its disk is nearly full, or it does not take what is finished already.
        """
        unspooled = self.unspooled
        if unspooled >= MAX_UNSPOOLED:
            return f"{unspooled} finished episodes cannot be written to the spool: free space on its disk"
        return self._shipper.shortage(running + unspooled)

    def drain(self, timeout_s: float, *, committed: bool) -> bool:
        """Wait until every episode is in the spool, or even committed. Returns whether it is so."""
        deadline_s = time.monotonic() + timeout_s
        while (self.waiting if committed else len(self._unspooled)) > 0:
            self.check()
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Stop the thread; what is in the spool stays there for the next start."""
        self._thread.close()
        self._metrics.close()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_connected())
                tasks.create_task(self._keep_spooling())
                tasks.create_task(self._keep_uploading())
                tasks.create_task(self._keep_announcing())
                tasks.create_task(self._keep_following_log())
                tasks.create_task(self._keep_policy_new())
                tasks.create_task(self._keep_beating())
                tasks.create_task(self.console.run(lambda: self._bus))
                tasks.create_task(self.stops.run(lambda: self._bus))
        finally:
            if self._bus is not None:
                await self._bus.close()

    async def _keep_connected(self) -> None:
        """Connect; the bus reconnects by itself unless the server refused it, or moved."""
        outage = Outage("there is no bus", "robots go on, episodes wait in the spool")
        while True:
            if self._bus is not None and not self._bus.closed:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                bus = await Bus.connect(self._bus_config(), name=self._host_id, timeout_s=_RETRY_S * 2)
                await self.stops.attach(bus)
                await bus.subscribe(POLICY_SUBJECT, PolicyPointer, self._on_policy)
                await bus.subscribe(SNAPSHOT_SUBJECT, SnapshotAnnouncement, self._on_snapshot)
                await bus.subscribe(LEARNER_SUBJECT, LearnerHeartbeat, self._on_learner)
                await self.console.attach(bus)
                self._bus = bus
                outage.succeeded()
                # The network is back: store and bus are worth a try at once.
                self._wake_upload_again.set()
                self._wake_announce_again.set()
                self._wake_policy.set()
            except (ServiceError, ConfigError) as error:
                # ConfigError, too: a credentials file that is being replaced stops no robot.
                outage.failed(error)
                self.stops.is_known = True
                await asyncio.sleep(_RETRY_S)

    async def _on_policy(self, pointer: PolicyPointer) -> None:
        self.policies.want(pointer)
        self._wake_policy.set()

    async def _on_snapshot(self, _: SnapshotAnnouncement) -> None:
        self._wake_log.set()

    async def _on_learner(self, heartbeat: LearnerHeartbeat) -> None:
        self._learner = heartbeat

    async def _keep_spooling(self) -> None:
        """Apart from shipping: an upload may hang for long, and no episode is safe before it is in the spool."""
        while True:
            try:
                while self._unspooled:
                    await self._shipper.spool(self._unspooled[0])
                    with self._lock:
                        self._unspooled.pop(0)
                    self._wake_upload.set()
            except StoreError as error:
                _logger.error("%s; %d episodes wait in memory", error, len(self._unspooled))
            await _wait(self._wake_spool, _RETRY_S)

    async def _keep_uploading(self) -> None:
        backoff = Backoff()
        next_adoption_s = time.monotonic() + _ADOPT_EVERY_S
        while True:
            try:
                await self._shipper.upload()
                backoff.succeeded()
                self._upload_error = ""
                if time.monotonic() > next_adoption_s:
                    next_adoption_s = time.monotonic() + _ADOPT_EVERY_S
                    await self._shipper.adopt()
            except StoreError as error:
                # New episodes do not cut the rest short: they wait in the spool with the others.
                await self._rest("upload", error, backoff.failed(), self._wake_upload_again)
            self._wake_announce.set()
            if not backoff.failures:
                await _wait(self._wake_upload, _RETRY_S)

    async def _keep_announcing(self) -> None:
        backoff = Backoff()
        while True:
            try:
                if self._bus is not None:
                    await self._shipper.announce(self._bus)
                backoff.succeeded()
            except ServiceError as error:
                # Nothing is lost meanwhile: the coordinator lists the store.
                await self._rest("announcement", error, backoff.failed(), self._wake_announce_again)
            if not backoff.failures:
                await _wait(self._wake_announce, _RETRY_S)

    async def _rest(self, what: str, error: Exception, rest_s: float, wake: asyncio.Event) -> None:
        if what == "upload":
            self._upload_error = str(error)[:500]
        _logger.warning(
            "%s; %d episodes wait in the spool, next %s in %.1f s", error, self._shipper.waiting, what, rest_s
        )
        await _wait(wake, rest_s)

    async def _keep_following_log(self) -> None:
        outage = Outage("the log cannot be followed", "episodes stay in the spool")
        while True:
            try:
                await self._shipper.follow_log()
                outage.succeeded()
            except StoreError as error:
                outage.failed(error)
            await _wait(self._wake_log, _LOG_LOOK_S)

    async def _keep_policy_new(self) -> None:
        outage = Outage("newer policies cannot be looked for", "robots keep theirs")
        next_look_s = 0.0
        while True:
            try:
                if time.monotonic() >= next_look_s:
                    await self.policies.look(self._bus)
                    next_look_s = time.monotonic() + (_POLICY_LOOK_S if self.policies.newest else _RETRY_S)
                await self.policies.load_wanted()
                outage.succeeded()
            except StoreError as error:
                outage.failed(error)
            await _wait(self._wake_policy, _RETRY_S)

    async def _keep_beating(self) -> None:
        next_row_s = 0.0
        while True:
            status = self.status
            if time.monotonic() >= next_row_s:
                next_row_s = time.monotonic() + self._heartbeat_s
                self._metrics.write(
                    {
                        "edge/env_steps": float(status.env_steps),
                        "edge/episodes": float(status.episodes),
                        "edge/spooled": float(self.waiting),
                        "edge/spooled_bytes": float(self._shipper.waiting_bytes),
                        "edge/oldest_waiting_s": self._shipper.oldest_s,
                        "edge/committed": float(self._shipper.committed),
                        "edge/policies_unused": float(self.policies.unused),
                        "edge/connected": float(self._bus is not None and self._bus.connected),
                        **status.metrics,
                    },
                    snapshot=self._shipper.snapshot,
                    policy_version=self.policies.version,
                )
            if self._bus is not None:
                beat = HostHeartbeat(
                    host_id=self._host_id,
                    time_s=time.time(),
                    state=status.state,
                    env_steps=status.env_steps,
                    episodes=status.episodes,
                    spooled=self.waiting,
                    spooled_bytes=self._shipper.waiting_bytes,
                    oldest_s=self._shipper.oldest_s,
                    error=(self.alarm or status.shortage or self._upload_error or self.policies.complaint)[:500],
                    policy_version=self.policies.version,
                    robots=status.robots,
                )
                with contextlib.suppress(ServiceError):
                    await self._bus.publish(host_subject(self._host_id), beat)
            watched_s = _WATCHED_HEARTBEAT_S if self.console.is_watched else self._heartbeat_s
            await asyncio.sleep(min(self._heartbeat_s, watched_s))


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, at most `timeout_s`, and clear it."""
    # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()
