"""Brings finished episodes to safety: spool, store, announcement, and out of the spool once committed.

Every step may be repeated at any time, by this process or by its successor after a crash.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from lwd.data.episode_file import write_episode
from lwd.data.log import LogReader
from lwd.data.quarantine import find_quarantined
from lwd.data.store import ObjectStore
from lwd.errors import ObjectExists, ServiceError, StoreError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.spool import Spool, SpooledEpisode
from lwd.types import Episode, Source

_ADOPT_AFTER_S = 60.0
"""Age at which episodes of robots that nobody runs any more are shipped by any host of the machine."""
_SUSPECT_AFTER_S = 10.0
"""Time without a commit after which the quarantine is looked at."""

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Item:
    episode: SpooledEpisode
    steps: int
    sha256: str = ""
    size_bytes: int = 0
    uploaded_at_s: float | None = None
    announced: bool = False
    suspected_at_s: float = 0.0
    """When it was uploaded, or last looked for in the quarantine; monotonic, the wall clock may jump back."""


class Shipper:
    """The upload side of one host. All methods run in the network thread's loop."""

    def __init__(self, store: ObjectStore, spool: Spool, robot_ids: set[str]) -> None:
        self._store = store
        self._spool = spool
        self._robot_ids = robot_ids
        self._reader = LogReader(store)
        self._items: dict[str, _Item] = {}
        self._started = False
        self.fleet_steps = 0
        """Committed steps of all fleet episodes, of every host."""
        self.committed = 0
        """Episodes of this spool that this process has seen committed."""

    @property
    def waiting(self) -> int:
        """Episodes in the spool that are not known to be committed."""
        return len(self._items)

    @property
    def waiting_steps(self) -> int:
        """Steps in these episodes, as far as this process recorded them."""
        return sum(item.steps for item in tuple(self._items.values()))

    @property
    def snapshot(self) -> int:
        """Newest snapshot version seen."""
        return self._reader.version

    async def spool(self, episode: Episode) -> None:
        """Put an episode on the disk.

        Raises:
            StoreError: if the disk is full; the caller still has the episode and tries again.
        """
        info = episode.info
        data = await asyncio.to_thread(write_episode, episode)
        spooled = await asyncio.to_thread(self._spool.add, info.robot_id, info.episode_id, data)
        steps = episode.steps if info.source is Source.FLEET else 0
        self._items[info.episode_id] = _Item(episode=spooled, steps=steps)

    async def adopt(self) -> None:
        """Take in what an earlier process left in the spool, also of robots that nobody runs any more."""
        for episode in await asyncio.to_thread(self._spool.pending):
            if episode.episode_id in self._items:
                continue
            age_s = time.time() - episode.spooled_at_s
            if episode.robot_id in self._robot_ids or age_s > _ADOPT_AFTER_S:
                self._items[episode.episode_id] = _Item(episode=episode, steps=0)

    async def ship(self, bus: Bus | None) -> None:
        """Upload and announce everything that waits for it; what fails is tried again at the next call."""
        try:
            for item in tuple(self._items.values()):
                if item.uploaded_at_s is None:
                    await self._upload(item)
        except StoreError as error:
            _logger.warning("%s; %d episodes wait in the spool", error, len(self._items))
        if bus is None or not bus.connected:
            return
        try:
            for item in tuple(self._items.values()):
                if item.uploaded_at_s is not None and not item.announced:
                    await bus.announce(_announcement(item, item.uploaded_at_s))
                    item.announced = True
        except ServiceError as error:
            _logger.warning("%s; the coordinator will find it in the store", error)

    async def follow_log(self) -> None:
        """Read what was committed and clear the spool of it.

        Raises:
            StoreError: if the log cannot be read.
        """
        if not self._started:
            await asyncio.to_thread(self._reader.load_index)
            episodes = self._reader.snapshot.episodes.values()
            self.fleet_steps = sum(item.entry.steps for item in episodes if item.entry.source is Source.FLEET)
            self._started = True
        for entry in await asyncio.to_thread(self._reader.poll):
            self.fleet_steps += sum(added.steps for added in entry.added if added.source is Source.FLEET)
        for item in tuple(self._items.values()):
            if self._reader.knows(item.episode.episode_id):
                await self._settle(item)
            elif item.uploaded_at_s is not None:
                await self._look_in_quarantine(item)

    async def _upload(self, item: _Item) -> None:
        try:
            data, item.sha256 = await asyncio.to_thread(item.episode.read)
            item.size_bytes = len(data)
            await asyncio.to_thread(self._store.create, item.episode.key, data)
        except FileNotFoundError:
            # Committed and removed meanwhile, by `follow_log` or by another host of this machine.
            self._forget(item)
            return
        except ObjectExists as error:
            await self._reject(item, str(error))
            return
        item.uploaded_at_s, item.suspected_at_s = time.time(), time.monotonic()

    async def _settle(self, item: _Item) -> None:
        found = self._reader.find(item.episode.episode_id)
        try:
            if not item.sha256:
                _, item.sha256 = await asyncio.to_thread(item.episode.read)
        except FileNotFoundError:
            self._forget(item)
            return
        if found is not None and found.entry.sha256 != item.sha256:
            await self._reject(item, f"the log has it with SHA-256 {found.entry.sha256}, not {item.sha256}")
            return
        await asyncio.to_thread(self._spool.remove, item.episode)
        self._forget(item)
        self.committed += 1

    async def _look_in_quarantine(self, item: _Item) -> None:
        now_s = time.monotonic()
        if now_s - item.suspected_at_s < _SUSPECT_AFTER_S:
            return
        item.suspected_at_s = now_s
        record = await asyncio.to_thread(find_quarantined, self._store, item.episode.key)
        if record is not None:
            await self._reject(item, record.reason)

    async def _reject(self, item: _Item, reason: str) -> None:
        _logger.error("episode %s is kept aside: %s", item.episode.episode_id, reason)
        # First: `ship` and `follow_log` may both find a reason. Should moving fail, it is adopted again.
        self._forget(item)
        await asyncio.to_thread(self._spool.reject, item.episode, reason)

    def _forget(self, item: _Item) -> None:
        self._items.pop(item.episode.episode_id, None)


def _announcement(item: _Item, uploaded_at_s: float) -> EpisodeAnnouncement:
    return EpisodeAnnouncement(
        episode_id=item.episode.episode_id,
        robot_id=item.episode.robot_id,
        key=item.episode.key,
        sha256=item.sha256,
        bytes=item.size_bytes,
        uploaded_at_s=uploaded_at_s,
    )
