"""The whole log as an operator reads it: every version, and what became of every episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lwd.data.log import CommittedEpisode, LogEntry, LogReader, Snapshot
from lwd.data.store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class RevokedEpisode:
    """An episode that later snapshots do not contain."""

    episode: CommittedEpisode
    version: int
    """The first snapshot without it."""
    revoked_at_s: float
    reason: str | None

    def needed_at(self, version: int) -> bool:
        """Whether the snapshot `version` contains it."""
        return self.episode.version <= version < self.version


@dataclass(frozen=True, kw_only=True)
class LogHistory:
    """All entries of a log and what they amount to."""

    entries: Sequence[LogEntry]
    snapshot: Snapshot
    """The newest one."""
    revoked: Mapping[str, RevokedEpisode]
    """By identity (ROBOT/ID), in the order of revocation."""


def read_history(store: ObjectStore) -> LogHistory:
    """Read a log from its first version.

    Raises:
        StoreError: if it cannot be read.
    """
    reader = LogReader(store)
    entries = reader.poll()
    live: dict[str, CommittedEpisode] = {}
    revoked: dict[str, RevokedEpisode] = {}
    for entry in entries:
        for added in entry.added:
            live[added.identity] = CommittedEpisode(
                entry=added, version=entry.version, committed_at_s=entry.committed_at_s
            )
        for identity in entry.revoked:
            if (episode := live.pop(identity, None)) is not None:
                revoked[identity] = RevokedEpisode(
                    episode=episode, version=entry.version, revoked_at_s=entry.committed_at_s, reason=entry.reason
                )
    return LogHistory(entries=entries, snapshot=reader.snapshot, revoked=revoked)
