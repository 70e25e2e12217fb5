"""The commit log: which episodes the fleet has, in which order they became known.

Snapshot v is the fold of the create-only objects log/1 ... log/v. An episode counts once it is in the log,
and only then. Whoever wants to commit must know every entry before its own: creating log/v fails if another
writer was faster, and the loser reads the winner's entry before it tries v + 1. That is the whole fencing.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.episode_file import NAME_PATTERN
from lwd.data.log_head import LOG_PREFIX as LOG_PREFIX
from lwd.data.log_head import log_key as log_key
from lwd.data.log_head import require_entry, require_no_gap, sha256_of_entry
from lwd.data.log_index import (
    INDEX_PREFIX,
    IndexDamaged,
    IndexTable,
    IndexUpdate,
    LogIndex,
    encode_index,
    index_key,
    read_index,
)
from lwd.data.store import Created, ObjectStore, get_or_none
from lwd.errors import ObjectExists, ObjectMissing, StoreError
from lwd.types import Outcome, Source, episode_identity

INDEX_EVERY = 256
"""Versions between two indexes."""
_LOOK_EVERY_S = 5.0
"""Between two looks at the newest known entry while nothing new comes."""

REPAIR = "restore it from a copy of the store, or see `lwd data verify --run RUN --repair`; later entries need it"
_logger = logging.getLogger(__name__)


class EpisodeEntry(BaseModel):
    """What the log knows of an episode; the arrays stay in the episode's own object."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    episode_id: str = Field(pattern=NAME_PATTERN)
    key: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    robot_id: str = Field(pattern=NAME_PATTERN)
    embodiment: str
    task: str
    instruction: str
    source: Source
    outcome: Outcome
    world: str
    policy_version: int = Field(ge=-1)
    steps: int = Field(gt=0)
    human_steps: int = Field(ge=0)
    interventions: int = Field(ge=0)
    """Number of take-overs: runs of human steps that follow a policy step or begin the episode."""
    sub_step_scores: tuple[float, ...]
    control_hz: float = Field(gt=0)
    started_at_s: float
    """Unix time, the robot's clock."""
    uploaded_at_s: float
    """Unix time at which the upload was complete."""

    @property
    def identity(self) -> str:
        """What tells episodes apart: robot and id, as ROBOT/ID."""
        return episode_identity(self.robot_id, self.episode_id)


class LogEntry(BaseModel):
    """One version of the log."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: int = Field(ge=1)
    epoch: int = Field(ge=1)
    """Counts coordinator starts; tells an operator which coordinator wrote an entry."""
    batch_id: str
    """Unique per commit attempt, so that a writer recognises its own entry."""
    committed_at_s: float
    added: tuple[EpisodeEntry, ...] = ()
    revoked: tuple[str, ...] = ()
    """Identities (ROBOT/ID) of episodes that later snapshots do not contain; they can never be added again.

    An id without a robot, as logs of before version 0.2 have them, stands for that id of every robot."""
    reason: str | None = Field(default=None, max_length=2000)
    """Why episodes were revoked, in the operator's words."""


class CommittedEpisode(BaseModel):
    """An episode of a snapshot, with the entry that added it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entry: EpisodeEntry
    version: int
    committed_at_s: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All episodes as of one version, in the order in which they were added."""

    version: int
    episodes: Mapping[str, CommittedEpisode]
    """By identity (ROBOT/ID)."""
    revoked: frozenset[str]
    """Identities; ids alone where an old log revoked them."""
    epoch: int
    """The newest epoch seen."""
    sha256: str = ""
    """Of the newest entry; empty at version 0."""

    @property
    def steps(self) -> int:
        return sum(item.entry.steps for item in self.episodes.values())


class LogReader:
    """Follows the log of one store. Not thread-safe: one reader per thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.version = 0
        self.sha256 = ""
        """Of the entry of that version; empty at version 0."""
        self.epoch = 0
        self.indexed_version = 0
        """Version of the index that was loaded; 0 if none was."""
        self.fleet_steps = 0
        """Control steps of the snapshot's fleet episodes; revoked ones do not count."""
        self._episodes: dict[str, CommittedEpisode] = {}
        self._revoked: set[str] = set()
        self._undelivered: list[LogEntry] = []
        self._looked_s = float("-inf")

    def poll(self, up_to: int | None = None) -> list[LogEntry]:
        """Read the entries that are new since the last poll, at most up to version `up_to`.

        Every entry is returned once: what was read before an error comes with the next poll that has none.

        Raises:
            StoreError: if the store cannot be read, if an entry is damaged, or if the newest known entry is not there
                any more: the store is an older copy, or another one.
        """
        known = self.version
        while up_to is None or self.version < up_to:
            data = get_or_none(self._store, log_key(self.version + 1))
            if data is None:
                if time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
                    self.require_unchanged()
                break
            if self.version == known:
                self.require_unchanged()
            self._undelivered.append(self.apply(data))
        entries, self._undelivered = self._undelivered, []
        return entries

    def require_unchanged(self) -> None:
        """Read the newest known entry again, and compare.

        Raises:
            StoreError: if it is another one, or gone.
        """
        if self.version:
            require_entry(self._store, self.version, self.sha256, "this process")
        self._looked_s = time.monotonic()

    def load_index(self, up_to: int | None = None) -> int:
        """Jump to the newest index (of a version up to `up_to`), if it is ahead, and return the version.

        Polls yield what follows it. For readers that need the snapshot, but not every entry (a coordinator that
        starts, a learner that joins late). An index that is damaged or gone is passed over: the log has everything.

        Raises:
            StoreError: if the store cannot be read.
        """
        keys = {item.key for item in self._store.list(INDEX_PREFIX)}
        for key in sorted(keys, reverse=True):
            if up_to is not None and key > index_key(up_to):
                continue
            if key <= index_key(self.version):
                break
            try:
                data = self._store.get(key)
                self._jump(self._of_this_log(read_index(data)))
            except (ObjectMissing, IndexDamaged) as error:
                _logger.warning("%s is passed over: %s", key, error)
                continue
            break
        return self.version

    @property
    def snapshot(self) -> Snapshot:
        """The fold of everything read so far (a copy)."""
        return Snapshot(
            version=self.version,
            episodes=dict(self._episodes),
            revoked=frozenset(self._revoked),
            epoch=self.epoch,
            sha256=self.sha256,
        )

    @property
    def revoked(self) -> frozenset[str]:
        """Identities of the episodes that were revoked; ids alone where an old log revoked them."""
        return frozenset(self._revoked)

    def knows(self, identity: str) -> bool:
        """Whether the episode ROBOT/ID was ever committed, also if it was revoked since."""
        # The id alone: what an old log revoked.
        return identity in self._episodes or not self._revoked.isdisjoint((identity, identity.rpartition("/")[2]))

    def find(self, identity: str) -> CommittedEpisode | None:
        """Return the committed episode ROBOT/ID, None if it is unknown or revoked."""
        return self._episodes.get(identity)

    def __len__(self) -> int:
        return len(self._episodes)

    def newer_than(self, version: int) -> list[CommittedEpisode]:
        """Return the episodes that later versions than `version` added, in their order; costs what it returns."""
        newer = []
        for item in reversed(self._episodes.values()):
            if item.version <= version:
                break
            newer.append(item)
        return newer[::-1]

    def apply(self, data: bytes) -> LogEntry:
        """Take in the stored entry of the next version; for the reader itself and for its writer.

        Returns:
            the entry; what it revokes by id alone is named by the identities that this takes out.
        Raises:
            StoreError: if it is damaged or does not fit; then the reader is as it was.
        """
        version = self.version + 1
        entry = read_entry(version, data)
        added: dict[str, CommittedEpisode] = {}
        for item in entry.added:
            if self.knows(item.identity) or item.identity in added:
                raise StoreError(
                    f"{log_key(version)} adds {item.identity} again: stop the other program that writes this log"
                )
            added[item.identity] = CommittedEpisode(entry=item, version=version, committed_at_s=entry.committed_at_s)
        self._episodes.update(added)
        self.fleet_steps += _fleet_steps(added.values())
        revoked = self._identities(entry.revoked)
        for identity in revoked:
            if (gone := self._episodes.pop(identity, None)) is not None:
                self.fleet_steps -= _fleet_steps([gone])
        self._revoked.update(entry.revoked)
        self.version, self.sha256 = version, sha256_of_entry(data)
        self.epoch = max(self.epoch, entry.epoch)
        return entry if revoked == entry.revoked else entry.model_copy(update={"revoked": revoked})

    def _identities(self, revoked: tuple[str, ...]) -> tuple[str, ...]:
        """Name the live episodes that an old log revokes by their id alone."""
        bare = {name for name in revoked if "/" not in name}
        if not bare:
            return revoked
        found: dict[str, list[str]] = {}
        for identity, item in self._episodes.items():
            if item.entry.episode_id in bare:
                found.setdefault(item.entry.episode_id, []).append(identity)
        return tuple(identity for name in revoked for identity in found.get(name, [name]))

    def _of_this_log(self, index: LogIndex) -> LogIndex:
        """Compare an index with the log before anything in it is believed."""
        data = get_or_none(self._store, log_key(index.version))
        if data is None or sha256_of_entry(data) != index.sha256:
            raise IndexDamaged(f"version {index.version} of the log is not the one that it was made from")
        return index

    def _jump(self, index: LogIndex) -> None:
        try:
            self._episodes = {
                episode_identity(row["robot_id"], row["episode_id"]): CommittedEpisode(
                    version=row.pop("version"),
                    committed_at_s=row.pop("committed_at_s"),
                    entry=EpisodeEntry.model_validate(row),
                )
                for row in index.rows
            }
        except (ValidationError, KeyError) as error:
            raise IndexDamaged(f"an index has a row that is no episode ({error!r})") from error
        self._revoked = set(index.revoked)
        self.fleet_steps = _fleet_steps(self._episodes.values())
        self.version, self.sha256, self.epoch = index.version, index.sha256, index.epoch
        self.indexed_version = index.version


def read_entry(version: int, data: bytes) -> LogEntry:
    """Read the stored entry of a version.

    Raises:
        StoreError: if it is damaged, or another version's.
    """
    try:
        entry = LogEntry.model_validate_json(data)
    except ValidationError as error:
        # Without the input: it may be anything.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise StoreError(f"{log_key(version)} is no log entry ({where}: {first['msg']}): {REPAIR}") from error
    if entry.version != version:
        raise StoreError(f"{log_key(version)} says version {entry.version}: {REPAIR}")
    return entry


def _fleet_steps(episodes: Iterable[CommittedEpisode]) -> int:
    return sum(item.entry.steps for item in episodes if item.entry.source is Source.FLEET)


class LogWriter:
    """Commits to the log through the reader that holds the snapshot it has seen."""

    def __init__(self, store: ObjectStore, reader: LogReader) -> None:
        self._store = store
        self._reader = reader
        self._table = IndexTable()
        self._indexed_version = reader.indexed_version
        self._gap_looked_for = False

    def commit(self, entry: LogEntry) -> bool:
        """Try to make `entry` the next version.

        Returns:
            True if it is committed (the reader has it then, too); False if another writer was faster: poll
            the reader, dedupe against it, and try again with the next version.
        Raises:
            StoreError: if the store cannot be reached; the commit may or may not have happened. Polling the
                reader tells, so the caller dedupes as after a lost race.
        """
        if entry.version != self._reader.version + 1:
            raise StoreError(f"entry is for version {entry.version}, the log is at {self._reader.version}: poll first")
        # Never into another store, an older copy, or behind a gap.
        self._reader.require_unchanged()
        if not self._gap_looked_for:
            require_no_gap(self._store, self._reader.version)
            self._gap_looked_for = True
        # Without fields that are None: a program from before `reason` existed reads all other entries.
        data = entry.model_dump_json(exclude_none=True).encode()
        try:
            created = self._store.create(log_key(entry.version), data)
        except ObjectExists:
            return False
        if created is Created.IDENTICAL:
            _logger.info("version %d had been committed by an earlier try of ours", entry.version)
        self._reader.apply(data)
        return True

    def due_index(self) -> IndexUpdate | None:
        """Every INDEX_EVERY versions, return the index that is to be written, else None.

        Cheap: it collects what is new since the last one. Writing it costs more, and may be done in any thread
        while commits go on; nobody waits for an index.
        """
        version = self._reader.version
        if version - self._indexed_version < INDEX_EVERY or self._table.busy:
            return None
        self._indexed_version = version
        return IndexUpdate(
            store=self._store,
            table=self._table,
            version=version,
            epoch=self._reader.epoch,
            sha256=self._reader.sha256,
            added=[
                (item.entry, item.version, item.committed_at_s) for item in self._reader.newer_than(self._table.version)
            ],
            revoked=sorted(self._reader.revoked),
        )

    def write_index_if_due(self) -> bool:
        """Write the index here and now if it is due. Returns whether it was written."""
        update = self.due_index()
        return update is not None and update.write()


def index_of(snapshot: Snapshot) -> bytes:
    """Return a snapshot's index, a Parquet file."""
    rows = [(item.entry, item.version, item.committed_at_s) for item in snapshot.episodes.values()]
    revoked = sorted(snapshot.revoked)
    table = IndexTable().advance(snapshot.version, rows, revoked)
    return encode_index(snapshot.version, snapshot.epoch, table, revoked, snapshot.sha256)
