"""The commit log: which episodes the fleet has, in which order they became known.

Snapshot v is the fold of the create-only objects log/1 ... log/v. An episode counts once it is in the log,
and only then. Whoever wants to commit must know every entry before its own: creating log/v fails if another
writer was faster, and the loser reads the winner's entry before it tries v + 1. That is the whole fencing.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.episode_file import NAME_PATTERN
from lwd.data.log_index import INDEX_PREFIX, encode_index, index_key, read_index
from lwd.data.store import Created, ObjectStore, get_or_none
from lwd.errors import ObjectExists, StoreError
from lwd.types import Outcome, Source

LOG_PREFIX = "log"
INDEX_EVERY = 256
"""Versions between two indexes."""

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
    """Episode ids that later snapshots do not contain; they can never be added again."""
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
    """By episode id."""
    revoked: frozenset[str]
    epoch: int
    """The newest epoch seen."""

    @property
    def steps(self) -> int:
        return sum(item.entry.steps for item in self.episodes.values())


def log_key(version: int) -> str:
    """Return the key of a version; keys sort as versions do."""
    return f"{LOG_PREFIX}/{version:012d}.json"


class LogReader:
    """Follows the log of one store. Not thread-safe: one reader per thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.version = 0
        self.epoch = 0
        self._episodes: dict[str, CommittedEpisode] = {}
        self._revoked: set[str] = set()

    def poll(self, up_to: int | None = None) -> list[LogEntry]:
        """Read the entries that are new since the last poll, at most up to version `up_to`.

        Raises:
            StoreError: if the store cannot be read, or if an entry is damaged.
        """
        return list(self._follow(up_to))

    def load_index(self) -> int:
        """Jump to the newest index, if it is ahead, and return the version; polls yield what follows it.

        For readers that need the snapshot, but not every entry (a coordinator that starts).
        """
        newest = max((item.key for item in self._store.list(INDEX_PREFIX)), default=None)
        if newest is None:
            return self.version
        index = read_index(self._store.get(newest))
        if index.version > self.version:
            self._episodes = {
                row["episode_id"]: CommittedEpisode(
                    version=row.pop("version"),
                    committed_at_s=row.pop("committed_at_s"),
                    entry=EpisodeEntry.model_validate(row),
                )
                for row in index.rows
            }
            self._revoked = set(index.revoked)
            self.version, self.epoch = index.version, index.epoch
        return self.version

    @property
    def snapshot(self) -> Snapshot:
        """The fold of everything read so far (a copy)."""
        return Snapshot(
            version=self.version,
            episodes=dict(self._episodes),
            revoked=frozenset(self._revoked),
            epoch=self.epoch,
        )

    def knows(self, episode_id: str) -> bool:
        """Whether the episode was ever committed, also if it was revoked since."""
        return episode_id in self._episodes or episode_id in self._revoked

    def find(self, episode_id: str) -> CommittedEpisode | None:
        """Return a committed episode, None if it is unknown or revoked."""
        return self._episodes.get(episode_id)

    def __len__(self) -> int:
        return len(self._episodes)

    def _follow(self, up_to: int | None) -> Iterator[LogEntry]:
        while up_to is None or self.version < up_to:
            data = get_or_none(self._store, log_key(self.version + 1))
            if data is None:
                return
            yield self._apply(data)

    def _apply(self, data: bytes) -> LogEntry:
        version = self.version + 1
        try:
            entry = LogEntry.model_validate_json(data)
        except ValidationError as error:
            raise StoreError(
                f"{log_key(version)} is no log entry ({error.errors(include_url=False)[0]}): "
                "restore it from a copy of the store; later entries need it"
            ) from error
        if entry.version != version:
            raise StoreError(f"{log_key(version)} says version {entry.version}: restore it from a copy of the store")
        for added in entry.added:
            if self.knows(added.episode_id):
                raise StoreError(
                    f"{log_key(version)} adds {added.episode_id} again: stop the other program that writes this log"
                )
            self._episodes[added.episode_id] = CommittedEpisode(
                entry=added, version=version, committed_at_s=entry.committed_at_s
            )
        for episode_id in entry.revoked:
            self._episodes.pop(episode_id, None)
            self._revoked.add(episode_id)
        self.version = version
        self.epoch = max(self.epoch, entry.epoch)
        return entry


class LogWriter:
    """Commits to the log through the reader that holds the snapshot it has seen."""

    def __init__(self, store: ObjectStore, reader: LogReader) -> None:
        self._store = store
        self._reader = reader

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
        try:
            # Without fields that are None: a program from before `reason` existed reads all other entries.
            data = entry.model_dump_json(exclude_none=True).encode()
            created = self._store.create(log_key(entry.version), data)
        except ObjectExists:
            return False
        if created is Created.IDENTICAL:
            _logger.info("version %d had been committed by an earlier try of ours", entry.version)
        self._reader.poll(up_to=entry.version)
        return True

    def write_index_if_due(self) -> bool:
        """Write the index of the reader's snapshot every INDEX_EVERY versions."""
        if self._reader.version == 0 or self._reader.version % INDEX_EVERY:
            return False
        try:
            snapshot = self._reader.snapshot
            self._store.create(index_key(snapshot.version), index_of(snapshot))
        except ObjectExists:
            # Another coordinator wrote it, with another library version perhaps; both say the same.
            return False
        return True


def index_of(snapshot: Snapshot) -> bytes:
    """Return a snapshot's index, a Parquet file."""
    rows = [
        {**item.entry.model_dump(mode="json"), "version": item.version, "committed_at_s": item.committed_at_s}
        for item in snapshot.episodes.values()
    ]
    return encode_index(snapshot.version, snapshot.epoch, rows, sorted(snapshot.revoked))
