"""Brings finished episodes to safety: spool, store, announcement, and out of the spool once committed.

Every step may be repeated at any time, by this process or by its successor after a crash. Each episode costs the
same work however many wait: it passes from line to line, and nothing is listed or read again for the others' sake.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lwd.data.episode_file import write_episode
from lwd.data.log import LogReader
from lwd.data.quarantine import find_quarantined
from lwd.data.store import ObjectStore
from lwd.errors import ObjectExists, StoreError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.spool import Spool, SpooledEpisode
from lwd.types import Episode, Source

UPLOADS = 4
"""Uploads at a time; those of one robot follow each other."""
_ADOPT_AFTER_S = 60.0
"""Time after which episodes of robots that nobody runs any more are shipped by any host of the machine."""
_SUSPECT_AFTER_S = 10.0
"""Time without a commit after which the quarantine is looked at; doubled with every look."""
_MOST_SUSPECT_S = 320.0
_LOOKS = 16
"""The most looks at the quarantine per look at the log."""

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Item:
    episode: SpooledEpisode
    steps: int
    since_s: float
    """Monotonic time since when it waits."""
    sha256: str = ""
    size_bytes: int = 0
    uploaded_at_s: float | None = None
    """Unix time, as it is announced."""
    looks: int = 0

    @property
    def id(self) -> str:
        return self.episode.episode_id


class Shipper:
    """The upload side of one host. All methods run in the network thread's loop."""

    def __init__(self, store: ObjectStore, spool: Spool, robot_ids: set[str]) -> None:
        self._store = store
        self._spool = spool
        self._robot_ids = robot_ids
        self._reader = LogReader(store)
        self._caught_up = False
        # Uploads may hang for minutes; the spool and the log must not wait for a thread behind them.
        self._threads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        self._items: dict[str, _Item] = {}
        self._lines: dict[str, deque[_Item]] = {}
        """By robot, oldest first: what is not in the store yet."""
        self._ready: deque[str] = deque()
        """Robots with a line of which nothing is being uploaded; they take turns."""
        self._unannounced: deque[_Item] = deque()
        self._suspects: list[tuple[float, int, _Item]] = []
        """A heap by the monotonic time of the next look at the quarantine."""
        self._count = itertools.count()
        self._unclaimed_since_s: dict[str, float] = {}
        self.waiting_steps = 0
        """Steps of the waiting episodes, as far as this process recorded them."""
        self.waiting_bytes = 0
        self.fleet_steps = 0
        """Committed steps of all fleet episodes, of every host."""
        self.committed = 0
        """Episodes of this spool that this process has seen committed."""

    @property
    def waiting(self) -> int:
        """Episodes in the spool that are not known to be committed."""
        return len(self._items)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them has waited."""
        since_s = min((item.since_s for item in self._items.values()), default=None)
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def can_upload(self) -> bool:
        """Whether an episode waits that `upload_next` would take."""
        return bool(self._ready)

    @property
    def can_announce(self) -> bool:
        return bool(self._unannounced)

    @property
    def snapshot(self) -> int:
        """Newest snapshot version seen."""
        return self._reader.version

    def shortage(self, coming: int) -> str:
        """Say why no episode may begin (see `Spool.shortage`); may be called from any thread."""
        return self._spool.shortage(coming)

    def close(self) -> None:
        """Begin no further upload."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
        """Take in what an earlier process left in the spool, also of robots that nobody runs any more.

        Raises:
            StoreError: if the spool cannot be read.
        """
        try:
            unclaimed = await asyncio.to_thread(self._spool.unclaimed)
            pending = await asyncio.to_thread(self._spool.pending)
            await asyncio.to_thread(self._spool.count)
        except OSError as error:
            raise StoreError(f"cannot read the spool ({error}): check its disk and permissions") from error
        # By a clock that cannot jump, not by the files' age.
        now_s = time.monotonic()
        self._unclaimed_since_s = {robot: self._unclaimed_since_s.get(robot, now_s) for robot in unclaimed}
        abandoned = {robot for robot, since_s in self._unclaimed_since_s.items() if now_s - since_s >= _ADOPT_AFTER_S}
        for episode in pending:
            if episode.episode_id not in self._items and episode.robot_id in self._robot_ids | abandoned:
                age_s = max(0.0, time.time() - episode.spooled_at_s)
                self._hold(_Item(episode=episode, steps=0, since_s=now_s - age_s))

    async def upload_next(self) -> bool:
        """Upload one episode, the oldest of the robot whose turn it is. Returns whether one was waiting.

        Raises:
            StoreError: if it failed; the episode stays first in its robot's line.
        """
        if not self._ready:
            return False
        robot_id = self._ready.popleft()
        line = self._lines[robot_id]
        try:
            if line[0].id in self._items:
                await self._upload(line[0])
            line.popleft()
        finally:
            # Also when cancelled: the next call finds the line as it was.
            if line:
                self._ready.append(robot_id)
            else:
                del self._lines[robot_id]
        return True

    async def announce_next(self, bus: Bus) -> bool:
        """Announce one uploaded episode, the oldest. Returns whether one was waiting.

        Raises:
            ServiceError: if it was not acknowledged; it stays first in line.
        """
        if not self._unannounced:
            return False
        item = self._unannounced[0]
        if item.id in self._items and item.uploaded_at_s is not None:
            await bus.announce(_announcement(item, item.uploaded_at_s))
        self._unannounced.popleft()
        return True

    async def follow_log(self) -> None:
        """Read what was committed and clear the spool of it.

        Raises:
            StoreError: if the log cannot be read, or the spool cannot be changed.
        """
        caught_up, self._caught_up = self._caught_up, False
        if not caught_up:
            await asyncio.to_thread(self._reader.load_index)
        # Should this fail, then what it had read is in the reader only: the next call looks at everything.
        entries = await asyncio.to_thread(self._reader.poll)
        if caught_up:
            added = [episode for entry in entries for episode in entry.added]
            self.fleet_steps += sum(episode.steps for episode in added if episode.source is Source.FLEET)
            committed = [self._items[episode.episode_id] for episode in added if episode.episode_id in self._items]
        else:
            known = self._reader.snapshot.episodes.values()
            self.fleet_steps = sum(item.entry.steps for item in known if item.entry.source is Source.FLEET)
            committed = [item for item in self._items.values() if self._reader.knows(item.id)]
        await self._settle_all(committed)
        await self._look_in_quarantine()
        self._caught_up = True

    def _hold(self, item: _Item) -> None:
        self._items[item.id] = item
        self.waiting_steps += item.steps
        self.waiting_bytes += item.episode.size_bytes
        robot_id = item.episode.robot_id
        if robot_id not in self._lines:
            self._lines[robot_id] = deque()
            self._ready.append(robot_id)
        self._lines[robot_id].append(item)
        if self._reader.knows(item.id):
            # Adopted after its entry was read: no later entry will name it.
            self._caught_up = False

    async def _upload(self, item: _Item) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._read_and_store, item)
        except FileNotFoundError:
            # Committed and removed meanwhile, by `follow_log` or by another host of this machine.
            self._forget(item)
            return
        except ObjectExists as error:
            await self._reject(item, str(error))
            return
        item.uploaded_at_s = time.time()
        self._unannounced.append(item)
        self._suspect(item)

    def _read_and_store(self, item: _Item) -> None:
        try:
            data, item.sha256 = item.episode.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read {item.episode.path} ({error.strerror}): check its disk") from error
        item.size_bytes = len(data)
        self._store.create(item.episode.key, data)

    async def _settle_all(self, committed: Iterable[_Item]) -> None:
        for item in committed:
            found = self._reader.find(item.id)
            try:
                if not item.sha256:
                    _, item.sha256 = await asyncio.to_thread(item.episode.read)
            except FileNotFoundError:
                self._forget(item)
                continue
            if found is not None and found.entry.sha256 != item.sha256:
                await self._reject(item, f"the log has it with SHA-256 {found.entry.sha256}, not {item.sha256}")
                continue
            await asyncio.to_thread(self._spool.remove, item.episode)
            self._forget(item)
            self.committed += 1

    def _suspect(self, item: _Item) -> None:
        wait_s = min(_SUSPECT_AFTER_S * 2**item.looks, _MOST_SUSPECT_S)
        heapq.heappush(self._suspects, (time.monotonic() + wait_s, next(self._count), item))

    async def _look_in_quarantine(self) -> None:
        for _ in range(_LOOKS):
            while self._suspects and self._suspects[0][2].id not in self._items:
                heapq.heappop(self._suspects)
            if not self._suspects or self._suspects[0][0] > time.monotonic():
                return
            item = self._suspects[0][2]
            record = await asyncio.to_thread(find_quarantined, self._store, item.episode.key)
            if record is not None:
                await self._reject(item, record.reason)
                continue
            heapq.heappop(self._suspects)
            item.looks += 1
            self._suspect(item)

    async def _reject(self, item: _Item, reason: str) -> None:
        _logger.error("episode %s is kept aside: %s", item.id, reason)
        # First: `upload_next` and `follow_log` may both find a reason. Should moving fail, it is adopted again.
        self._forget(item)
        await asyncio.to_thread(self._spool.reject, item.episode, reason)

    def _forget(self, item: _Item) -> None:
        if self._items.pop(item.id, None) is not None:
            self.waiting_steps -= item.steps
            self.waiting_bytes -= item.episode.size_bytes


def _announcement(item: _Item, uploaded_at_s: float) -> EpisodeAnnouncement:
    return EpisodeAnnouncement(
        episode_id=item.id,
        robot_id=item.episode.robot_id,
        key=item.episode.key,
        sha256=item.sha256,
        bytes=item.size_bytes,
        uploaded_at_s=uploaded_at_s,
    )
