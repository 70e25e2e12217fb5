"""The replay reader: brings an arena to a snapshot version of the commit log."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lwd.data.arena import ReplayArena
from lwd.data.episode_file import read_episode
from lwd.data.log import EpisodeEntry, LogReader
from lwd.data.store import ObjectStore
from lwd.errors import EpisodeRejected, StoreError
from lwd.types import Episode, Source

_ATTEMPTS = 5
_FIRST_WAIT_S = 0.1
_REVOKE = "remove it from all later snapshots with `lwd data revoke --episode ROBOT/ID`"
_AHEAD = 4
"""Downloads per thread that may wait to be decoded: bounds the memory of a reader that joins late."""


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What leads from the arena's version to another one."""

    version: int
    sha256: str
    added: tuple[EpisodeEntry, ...]
    revoked: frozenset[str]


class ReplayReader:
    """Downloads what the log adds, verifies every hash, decodes each episode once into the arena.

    What can be sampled changes only inside `advance` and `adopt`, so a learner decides between two updates when its
    replay grows. The content at a version, and the counts below, depend on the version alone: not on the steps in
    which a reader came there, nor on when it joined.
    """

    def __init__(self, store: ObjectStore, arena: ReplayArena, *, downloads: int = 4) -> None:
        self.arena = arena
        self.log = LogReader(store)
        self.version = 0
        """The snapshot version the arena is at."""
        self.sha256 = ""
        """Of that version's log entry; empty at version 0."""
        self.env_steps = 0
        self.acting_policy_version = -1
        """Of the fleet's newest episodes; -1 before the first."""
        """Control steps of the fleet's episodes in the arena: what the update-to-data ratio counts."""
        self._fleet_steps: dict[str, int] = {}
        """Steps of every fleet episode in the arena, by identity."""
        self._added: list[EpisodeEntry] = []
        self._revoked: set[str] = set()
        # Both are kept until they are in the arena: after a failed download the next try fetches the same episodes.
        self._store = store
        self._downloads = downloads
        self._pool = ThreadPoolExecutor(downloads, thread_name_prefix="replay-download")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="replay-prepare")
        self._prepared: Future[_Change] | None = None

    @property
    def fleet_episodes(self) -> int:
        """Fleet episodes in the arena."""
        return len(self._fleet_steps)

    def advance(self, up_to: int | None = None) -> tuple[EpisodeEntry, ...]:
        """Bring the arena to the log's newest version, or to `up_to`; return the episodes that were added.

        Raises:
            StoreError: if an episode cannot be fetched, or is not what the log says, after several attempts; or if
                it cannot be used. Once it is restored or revoked, the next call goes on.
        """
        if self._prepared is not None:
            self._prepared.exception()  # waits: one thread at a time follows the log
            self._prepared = None
        self._follow(up_to)
        return self._show(self._stage())

    # ---- in two steps, for learners that change together ----------------------------------------------------

    def newest(self) -> int:
        """Follow the log without any download; return its newest version."""
        if self._prepared is None:
            self._follow(None)
        return self.log.version

    def prepare(self, version: int) -> None:
        """Begin to bring the arena to a version in the background; nothing can be sampled before `adopt`.

        A version that the store does not show yet is waited for. Does nothing while another one is prepared.
        """
        if self._prepared is None and version > self.version:
            self._prepared = self._ahead.submit(self._prepare, version)

    @property
    def prepared(self) -> bool:
        """Whether `adopt` has something to show, and need not wait for it."""
        return self._prepared is not None and self._prepared.done()

    @property
    def prepared_well(self) -> bool:
        """Whether `adopt` has something to show, and will not raise."""
        return self._prepared is not None and self._prepared.done() and self._prepared.exception() is None

    def adopt(self) -> tuple[EpisodeEntry, ...]:
        """Show what was prepared, waiting for it if necessary; return the episodes that were added.

        Raises:
            StoreError: as `advance` does; the arena stays where it was.
        """
        if self._prepared is None:
            return ()
        prepared, self._prepared = self._prepared, None
        return self._show(prepared.result())

    def close(self) -> None:
        """Stop the download threads."""
        self._pool.shutdown(cancel_futures=True)
        self._ahead.shutdown(cancel_futures=True)

    def _prepare(self, version: int) -> _Change:
        wait_s = _FIRST_WAIT_S
        for _ in range(_ATTEMPTS):
            self._follow(version)
            if self.log.version >= version:
                return self._stage()
            time.sleep(wait_s)
            wait_s *= 2
        raise StoreError(
            f"the log ends at {self.log.version} here, another learner process sees version {version}: give all of "
            "them the same store"
        )

    def _follow(self, up_to: int | None) -> None:
        """Read the log and note what it adds and revokes."""
        if self.log.version == 0:
            self._join(up_to)
        for entry in self.log.poll(up_to):
            self._added += entry.added
            self._revoked.update(entry.revoked)

    def _join(self, up_to: int | None) -> None:
        """Begin with the newest index: one object instead of one per version."""
        self.log.load_index(up_to)
        self._added += [item.entry for item in self.log.snapshot.episodes.values()]

    def _stage(self) -> _Change:
        # What was revoked need not be downloaded, and may be gone from the store already.
        added = tuple(entry for entry in self._added if self.log.find(entry.identity) is not None)
        try:
            self.arena.stage(self._fetched(added))
        except EpisodeRejected as error:
            # Validation lets no such episode in; an older version's, or damage behind its back, may have.
            raise StoreError(f"the log holds an episode that cannot be used ({error}): {_REVOKE}") from error
        return _Change(version=self.log.version, sha256=self.log.sha256, added=added, revoked=frozenset(self._revoked))

    def _show(self, change: _Change) -> tuple[EpisodeEntry, ...]:
        self.arena.publish(revoked=change.revoked)
        of_fleet = [entry for entry in change.added if _of_fleet(entry)]
        self._fleet_steps.update((entry.identity, entry.steps) for entry in of_fleet)
        if of_fleet:
            self.acting_policy_version = max(entry.policy_version for entry in of_fleet)
        for identity in change.revoked:
            self._fleet_steps.pop(identity, None)
        self.env_steps = sum(self._fleet_steps.values())
        self.version, self.sha256 = change.version, change.sha256
        self._added, self._revoked = [], set()
        return change.added

    def _fetched(self, entries: Sequence[EpisodeEntry]) -> Iterator[Episode]:
        """Yield the episodes in their order, with a bounded number of downloads ahead."""
        waiting: deque[Future[Episode]] = deque()
        for entry in entries:
            waiting.append(self._pool.submit(self._fetch, entry))
            if len(waiting) >= self._downloads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _fetch(self, entry: EpisodeEntry) -> Episode:
        wait_s = _FIRST_WAIT_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                data = self._store.get(entry.key)
                found = hashlib.sha256(data).hexdigest()
                if found == entry.sha256:
                    return _read(entry, data)
                problem = StoreError(
                    f"episode {entry.identity} has sha256 {found[:12]}, the log says {entry.sha256[:12]}: "
                    f"revoke it, or restore {entry.key} from a copy of the store"
                )
            except StoreError as error:
                problem = error
            if attempt < _ATTEMPTS:
                time.sleep(wait_s)
                wait_s *= 2
        raise problem


def _read(entry: EpisodeEntry, data: bytes) -> Episode:
    try:
        return read_episode(data)
    except EpisodeRejected as error:
        raise EpisodeRejected(f"episode {entry.identity}: {error}") from error


def _of_fleet(entry: EpisodeEntry) -> bool:
    return entry.source is Source.FLEET
