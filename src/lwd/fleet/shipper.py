"""Brings finished episodes to safety: spool, store, announcement, and out of the spool once committed.

Every step may be repeated at any time, by this process or by its successor after a crash.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

from lwd.data.episode_file import write_episode
from lwd.data.fresh_read import get_past_caches
from lwd.data.identity import StoreNote
from lwd.data.log import LogReader
from lwd.data.quarantine import find_quarantined
from lwd.data.store import ObjectStore
from lwd.errors import ObjectExists, StoreError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.proof import CommitProof, is_stored
from lwd.fleet.rejected import RejectedEpisodes, verdict_in_words
from lwd.fleet.spool import Spool, SpooledEpisode
from lwd.fleet.spool_files import STORE_NOTE, warn_once
from lwd.types import Episode, Source

_ADOPT_AFTER_S = 60.0
"""Time after which episodes of robots that nobody runs any more are shipped by any host of the machine."""
_SUSPECT_AFTER_S = 10.0
"""Time without a commit after which the quarantine is looked at; doubled with every look."""
_MOST_SUSPECT_S = 320.0
_IDENTITY_EVERY_S = 5.0
"""Between two looks at the store's identity while uploading."""
_REST_S = 30.0
"""Before a file that cannot be read is tried again."""
_FAILURES = 5
"""Of one episode, before the next ones are tried: they tell whether the store fails, or that episode alone."""
_CONFLICTS = 3
"""Reads of other bytes under an episode's key that must agree before it is kept aside."""
_CONFLICT_REST_S = 0.5
_LOOKS = 16
"""The most looks at the quarantine per look at the log."""

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Item:
    episode: SpooledEpisode
    steps: int
    since_s: float
    """Monotonic time since when it waits: the wall clock may jump."""
    sha256: str = ""
    size_bytes: int = 0
    uploaded_at_s: float | None = None
    """Unix time, as it is announced."""
    look_at_s: float = 0.0
    """Monotonic time of the next look into the quarantine."""
    looks: int = 0
    rest_until_s: float = 0.0
    """Monotonic time of the next try to upload it; only after one that failed by its own fault."""
    failures: int = 0
    """How often the store did not take it."""
    conflicts: int = 0
    """How often the store held other bytes."""


class Shipper:
    """The upload side of one host. All methods run in the network thread's loop."""

    def __init__(self, store: ObjectStore, spool: Spool, robot_ids: set[str]) -> None:
        self._store = store
        self._note = StoreNote(spool.root / STORE_NOTE, f"the spool {spool.root}")
        self._identity_due_s = float("-inf")
        self._spool = spool
        self._robot_ids = robot_ids
        self._reader = LogReader(store)
        self._items: dict[str, _Item] = {}
        self._to_upload: dict[str, _Item] = {}
        self._to_announce: deque[_Item] = deque()
        self._rejected = RejectedEpisodes(store, spool, self._note)
        self._unclaimed_since_s: dict[str, float] = {}
        self._started = False
        self.committed = 0
        """Episodes of this spool that this process has seen committed."""
        self.waiting_bytes = 0
        """Size of the episodes in the spool that are not known to be committed."""

    @property
    def waiting(self) -> int:
        """Episodes in the spool that are not known to be committed."""
        return len(self._items)

    @property
    def waiting_steps(self) -> int:
        """Steps in these episodes, as far as this process recorded them."""
        return sum(item.steps for item in tuple(self._items.values()))

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them has waited."""
        since_s = min((item.since_s for item in tuple(self._items.values())), default=None)
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def fleet_steps(self) -> int:
        """Committed steps of all fleet episodes, of every host; revoked ones do not count."""
        return self._reader.fleet_steps

    @property
    def snapshot(self) -> int:
        """Newest snapshot version seen."""
        return self._reader.version

    def shortage(self, coming: int) -> str:
        """Say why no episode may begin, see `Spool.shortage`; may be called from any thread."""
        return self._spool.shortage(coming)

    async def spool(self, episode: Episode) -> None:
        """Put an episode on the disk.

        Raises:
            StoreError: if the disk is full; the caller still has the episode and tries again.
        """
        info = episode.info
        data = await asyncio.to_thread(write_episode, episode)
        spooled = await asyncio.to_thread(self._spool.add, info.robot_id, info.episode_id, data)
        steps = episode.steps if info.source is Source.FLEET else 0
        self._hold(_Item(episode=spooled, steps=steps, since_s=time.monotonic()))

    async def adopt(self) -> None:
        """Take in what an earlier process left in the spool, also of robots that nobody runs any more."""
        unclaimed = await asyncio.to_thread(self._spool.unclaimed)
        pending = await asyncio.to_thread(self._spool.pending)
        await asyncio.to_thread(self._spool.count)
        # By a clock that cannot jump, not by the files' age.
        now_s = time.monotonic()
        self._unclaimed_since_s = {robot: self._unclaimed_since_s.get(robot, now_s) for robot in unclaimed}
        abandoned = {robot for robot, since_s in self._unclaimed_since_s.items() if now_s - since_s >= _ADOPT_AFTER_S}
        ours = self._robot_ids | abandoned
        await asyncio.to_thread(self._rejected.adopt, ours)
        for episode in pending:
            if episode.identity not in self._items and episode.robot_id in ours:
                self._hold(_Item(episode=episode, steps=0, since_s=now_s))

    async def upload(self) -> None:
        """Upload everything that waits for it, in order; what fails by its own fault lets the others pass.

        Raises:
            StoreError: if the store fails, or is not the spool's; what is left is first in line at the next call.
        """
        if self._to_upload and time.monotonic() >= self._identity_due_s:
            found = await asyncio.to_thread(self._note.require, self._store)
            self._identity_due_s = time.monotonic() + (0.0 if found is None else _IDENTITY_EVERY_S)
        failed: list[tuple[_Item, StoreError]] = []
        for identity, item in tuple(self._to_upload.items()):
            if identity in self._items:
                if time.monotonic() < item.rest_until_s:
                    continue
                try:
                    await self._upload(item)
                except StoreError as error:
                    failed.append((item, error))
                    item.failures += 1
                    if item.failures < _FAILURES or len(failed) >= _FAILURES:
                        raise
                    continue
                if item.uploaded_at_s is None and identity in self._items:
                    continue
            self._to_upload.pop(identity, None)
            for other, reason in failed:
                # The store takes others: it is this one's fault, a directory in its place perhaps.
                other.rest_until_s = time.monotonic() + _REST_S
                warn_once(other.episode.path, f"cannot be stored ({reason}): look at {other.episode.key} in the store")
            failed.clear()
        if failed:
            raise failed[0][1]

    async def announce(self, bus: Bus) -> None:
        """Announce everything that was uploaded, in order; nothing while the bus is down.

        Raises:
            ServiceError: if an announcement is not acknowledged; it is first in line at the next call.
        """
        while self._to_announce and bus.connected:
            item = self._to_announce[0]
            if item.episode.identity in self._items and item.uploaded_at_s is not None:
                await bus.announce(_announcement(item, item.uploaded_at_s))
            self._to_announce.popleft()

    async def follow_log(self) -> None:
        """Read what was committed and clear the spool of it, once its log entry has been read again.

        Raises:
            StoreError: if the log cannot be read, or the store is another one, or an older copy; nothing is deleted.
        """
        if not self._started:
            await asyncio.to_thread(self._reader.load_index)
            self._started = True
        await asyncio.to_thread(self._reader.poll)
        committed = await asyncio.to_thread(self._proven)
        looks = _LOOKS
        failure: Exception | None = None
        for item in tuple(self._items.values()):
            if time.monotonic() < item.rest_until_s:
                continue
            try:
                if item.episode.identity in committed:
                    await self._settle(item)
                elif looks and item.uploaded_at_s is not None and time.monotonic() >= item.look_at_s:
                    looks -= 1
                    await self._look_in_quarantine(item)
            except (StoreError, OSError) as error:
                # A damaged file or record of one episode keeps no other one; a store that is down fails once.
                failure, looks = error, 0
                item.rest_until_s = time.monotonic() + _REST_S
        for episode in await self._rejected.follow(self._reader):
            self._hold(_Item(episode=episode, steps=0, since_s=time.monotonic()))
        if failure is not None:
            raise StoreError(str(failure)) from failure

    def _proven(self) -> set[str]:
        """Return the committed episodes, for which the store's log was read just now.

        Costs one small object, and one more for each version that they are in.
        """
        known = [name for name in tuple(self._items) if self._reader.knows(name)]
        if known:
            proof = CommitProof(self._store, self._note)
            found = [self._reader.find(name) for name in known]
            proof.require(episode for episode in found if episode is not None)
            if None in found:
                # Revoked: which entry added it is not known any more, but that this is the log we read can be.
                self._reader.require_unchanged()
        return set(known)

    def _hold(self, item: _Item) -> None:
        self._items[item.episode.identity] = item
        self.waiting_bytes += item.episode.size_bytes
        self._to_upload[item.episode.identity] = item

    async def _upload(self, item: _Item) -> None:
        try:
            data, item.sha256 = await asyncio.to_thread(item.episode.read)
            item.size_bytes = len(data)
            if not data:
                await self._reject(item, "the file is empty: this machine's disk lost its content")
                return
            await asyncio.to_thread(self._store.create, item.episode.key, data)
        except FileNotFoundError:
            # Committed and removed meanwhile, by `follow_log` or by another host of this machine.
            self._forget(item)
            return
        except ObjectExists as error:
            if not await self._is_stored(item, data):
                await self._conflict(item, error)
                return
        except OSError as error:
            item.rest_until_s = time.monotonic() + _REST_S
            warn_once(item.episode.path, f"cannot be read ({error.strerror}): check the disk, or move it away")
            return
        item.uploaded_at_s = time.time()
        item.look_at_s = time.monotonic() + _SUSPECT_AFTER_S
        self._to_announce.append(item)

    async def _is_stored(self, item: _Item, data: bytes) -> bool:
        """Whether the store has these bytes after all: what it compared them with may have been misread."""
        return await asyncio.to_thread(get_past_caches, self._store, item.episode.key) == data

    async def _conflict(self, item: _Item, error: ObjectExists) -> None:
        item.conflicts += 1
        if item.conflicts < _CONFLICTS:
            item.rest_until_s = time.monotonic() + _CONFLICT_REST_S
            return
        await self._reject(item, str(error))

    async def _settle(self, item: _Item) -> None:
        found = self._reader.find(item.episode.identity)
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
        item.looks += 1
        item.look_at_s = time.monotonic() + min(_SUSPECT_AFTER_S * 2**item.looks, _MOST_SUSPECT_S)
        record = await asyncio.to_thread(find_quarantined, self._store, item.episode.key)
        if record is not None:
            await self._reject(item, await asyncio.to_thread(verdict_in_words, record, item.episode, item.sha256))
        elif not await asyncio.to_thread(is_stored, self._store, item.episode.key):
            # It went to another store that was in this one's place, or this one was restored from an older copy.
            _logger.warning("%s is not in the store any more: it is uploaded again", item.episode.key)
            item.uploaded_at_s = None
            self._to_upload[item.episode.identity] = item

    async def _reject(self, item: _Item, reason: str) -> None:
        _logger.error("episode %s is kept aside: %s", item.episode.identity, reason)
        # First: `upload` and `follow_log` may both find a reason. Should moving fail, it is adopted again.
        self._forget(item)
        await asyncio.to_thread(self._spool.reject, item.episode, reason)
        await asyncio.to_thread(self._rejected.adopt, self._robot_ids | {item.episode.robot_id})

    def _forget(self, item: _Item) -> None:
        if self._items.pop(item.episode.identity, None) is not None:
            self.waiting_bytes -= item.episode.size_bytes


def _announcement(item: _Item, uploaded_at_s: float) -> EpisodeAnnouncement:
    return EpisodeAnnouncement(
        episode_id=item.episode.episode_id,
        robot_id=item.episode.robot_id,
        key=item.episode.key,
        sha256=item.sha256,
        bytes=item.size_bytes,
        uploaded_at_s=uploaded_at_s,
    )
