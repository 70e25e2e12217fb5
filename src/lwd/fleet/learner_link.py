"""What a learner sends to its fleet, and hears from it, without knowing asyncio.

The learner itself only needs the store; whoever starts it connects the two through this class.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from lwd.data.policies import PolicyManifest
from lwd.errors import ConfigError, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.loop_thread import LoopThread
from lwd.fleet.messages import LEARNER_SUBJECT, SNAPSHOT_SUBJECT, LearnerHeartbeat, PolicyPointer, SnapshotAnnouncement
from lwd.fleet.release import pointer_of

_RECONNECT_WITHIN_S = 2.0
_logger = logging.getLogger(__name__)


class LearnerLink:
    """A connection that never fails its user: what cannot be sent is logged, and found in the store later.

    The newest policy that could not be announced is announced with the next heartbeat that gets through.
    """

    def __init__(self, bus: Callable[[], BusConfig], *, connect_within_s: float = 20.0) -> None:
        """
        Args:
            bus: asked again at every new connection, for a server that moved.
        Raises:
            ConfigError: if a file of the configuration is missing or wrong.
            ServiceError: if there is no bus, or it refuses us.
        """
        self._snapshot = threading.Event()
        self._thread = LoopThread("learner link")
        self._config = bus
        self._unannounced: PolicyPointer | None = None
        self._sending: Future[None] | None = None
        self._complaint = False
        try:
            self._bus = self._thread.call(self._connect(connect_within_s), connect_within_s + 10)
        except BaseException:
            self._thread.close()
            raise

    def announce_policy(self, manifest: PolicyManifest) -> bool:
        """Ring the fleet for a published policy. Returns whether the bus took it."""
        self._unannounced = pointer = pointer_of(manifest)
        try:
            self._thread.call(self._announce(pointer))
        except (ServiceError, TimeoutError) as error:
            _logger.warning("%s; robots will find policy %d in the store", error, manifest.version)
            return False
        return True

    def beat(
        self,
        *,
        stage: str,
        update: int,
        snapshot: int,
        policy_version: int,
        env_steps: int,
        env_steps_allowed: int | None,
        real_env_steps_allowed: int | None = None,
    ) -> None:
        """Send a heartbeat without waiting for it.

        Args:
            env_steps: fleet steps in the replay.
            env_steps_allowed: fleet steps in the log at which simulated robots begin no new episodes (None: no
                limit). Leave room for the episodes that are running, or learner and fleet wait for each other.
            real_env_steps_allowed: the same for real robots.
        """
        heartbeat = LearnerHeartbeat(
            time_s=time.time(),
            stage=stage,
            update=update,
            snapshot=snapshot,
            policy_version=policy_version,
            env_steps=env_steps,
            env_steps_allowed=env_steps_allowed,
            real_env_steps_allowed=real_env_steps_allowed,
        )
        # One at a time: while the bus is away they would pile up.
        if self._sending is None or self._sending.done():
            self._sending = self._thread.start(self._send(heartbeat))

    def wait_for_snapshot(self, timeout_s: float) -> bool:
        """Wait for a newer snapshot to be announced. A hint: poll the log in any case."""
        announced = self._snapshot.wait(timeout_s)
        self._snapshot.clear()
        return announced

    def close(self) -> None:
        """Disconnect."""
        try:
            self._thread.call(self._bus.close())
        except (ServiceError, TimeoutError) as error:
            _logger.info("the bus is left without a goodbye: %s", error)
        finally:
            self._thread.close()

    async def _connect(self, timeout_s: float) -> Bus:
        bus = await Bus.connect(self._config(), name="learner", timeout_s=timeout_s)
        await bus.subscribe(SNAPSHOT_SUBJECT, SnapshotAnnouncement, self._on_snapshot)
        return bus

    async def _on_snapshot(self, _: SnapshotAnnouncement) -> None:
        self._snapshot.set()

    async def _announce(self, pointer: PolicyPointer) -> None:
        await self._bus.set_policy_pointer(pointer)
        if self._unannounced is pointer:
            self._unannounced = None

    async def _send(self, heartbeat: LearnerHeartbeat) -> None:
        """Send a heartbeat; says once that the bus is away, and once that it is back."""
        try:
            if self._bus.closed:  # refused, for example: it does not come back by itself
                self._bus = await self._connect(_RECONNECT_WITHIN_S)
            await self._bus.publish(LEARNER_SUBJECT, heartbeat)
            if (pointer := self._unannounced) is not None:
                await self._announce(pointer)
        except (ServiceError, ConfigError) as error:
            if not self._complaint:
                _logger.warning("%s; training goes on, robots look into the store", error)
            self._complaint = True
            return
        if self._complaint:
            _logger.warning("the bus takes heartbeats again")
        self._complaint = False
