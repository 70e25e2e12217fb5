"""The replay reader: brings an arena to a snapshot version of the commit log."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

from lwd.data.arena import ReplayArena
from lwd.data.episode_file import read_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader
from lwd.data.store import ObjectStore
from lwd.errors import StoreError
from lwd.types import Episode, Source

_ATTEMPTS = 5
_FIRST_WAIT_S = 0.1


class ReplayReader:
    """Downloads what the log adds, verifies every hash, decodes each episode once into the arena.

    The arena changes only inside `advance`, so a learner decides between two updates when its replay grows.
    """

    def __init__(self, store: ObjectStore, arena: ReplayArena, *, downloads: int = 4) -> None:
        self.arena = arena
        self.log = LogReader(store)
        self.env_steps = 0
        """Control steps that the fleet has committed up to this version: what the update-to-data ratio counts.

        Revoked ones stay counted: the number says nothing but how long the log is, and never falls, whether the
        reader was there when they were revoked or began later.
        """
        self.fleet_episodes = 0
        self._pending: list[LogEntry] = []
        self._store = store
        self._pool = ThreadPoolExecutor(downloads, thread_name_prefix="replay-download")

    @property
    def version(self) -> int:
        """The snapshot version the arena is at."""
        return self.log.version

    def advance(self, up_to: int | None = None) -> tuple[EpisodeEntry, ...]:
        """Bring the arena to the log's newest version, or to `up_to`; return the episodes that were added.

        Raises:
            StoreError: if an episode cannot be fetched, or is not what the log says, after several attempts.
        """
        # Kept until they are in the arena: after a failed download the next call tries the same entries again.
        self._pending += self.log.poll(up_to)
        entries = self._pending
        if not entries:
            return ()
        # What a later entry revokes need not be downloaded, and may be gone from the store already.
        added = [item for entry in entries for item in entry.added if self.log.find(item.episode_id) is not None]
        self.arena.add(self._pool.map(self._fetch, added))
        self._revoke(entries)
        self._pending = []
        for item in (item for entry in entries for item in entry.added):
            if item.source is Source.FLEET:
                self.env_steps += item.steps
                self.fleet_episodes += 1
        return tuple(added)

    def close(self) -> None:
        """Stop the download threads."""
        self._pool.shutdown(cancel_futures=True)

    def _revoke(self, entries: list[LogEntry]) -> None:
        revoked = [episode_id for entry in entries for episode_id in entry.revoked]
        if revoked:
            self.arena.revoke(revoked)

    def _fetch(self, entry: EpisodeEntry) -> Episode:
        wait_s = _FIRST_WAIT_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                data = self._store.get(entry.key)
                found = hashlib.sha256(data).hexdigest()
                if found == entry.sha256:
                    return read_episode(data)
                problem = StoreError(
                    f"episode {entry.episode_id} has sha256 {found[:12]}, the log says {entry.sha256[:12]}: "
                    f"revoke it, or restore {entry.key} from a copy of the store"
                )
            except StoreError as error:
                problem = error
            if attempt < _ATTEMPTS:
                time.sleep(wait_s)
                wait_s *= 2
        raise problem
