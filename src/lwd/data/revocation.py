"""Revoking episodes: one log entry that takes them out of every later snapshot.

It is a commit like any other, so it needs no coordinator and does not disturb one: of two writers that want the
same version one wins, and the other reads what it lost to before it tries the next.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter, Snapshot
from lwd.data.selection import Selection, require_one_robot
from lwd.data.store import ObjectStore
from lwd.errors import ConfigError, StoreError

_ATTEMPTS = 5
_FIRST_WAIT_S = 0.1

Choose = Callable[[LogReader], Sequence[str]]
"""The identities (ROBOT/ID) to revoke, of episodes that the reader's snapshot contains."""


@dataclass(frozen=True, kw_only=True)
class Revocation:
    """What was revoked."""

    version: int
    """The first snapshot without the episodes; the newest one if there was nothing to revoke."""
    episodes: tuple[str, ...] = ()
    """Identities (ROBOT/ID)."""


def commit_revocation(
    reader: LogReader, writer: LogWriter, choose: Choose, *, epoch: int, reason: str | None = None
) -> Revocation:
    """Revoke what `choose` finds in the newest snapshot, in one version; without any, make no version.

    Raises:
        StoreError: if the store fails; the episodes may or may not be revoked. Doing it again revokes none twice.
    """
    while True:
        reader.poll()
        chosen = tuple(choose(reader))
        if not chosen:
            return Revocation(version=reader.version)
        entry = LogEntry(
            version=reader.version + 1,
            epoch=epoch,
            batch_id=uuid.uuid4().hex,
            committed_at_s=time.time(),
            revoked=chosen,
            reason=reason,
        )
        if commit_entry(reader, writer, entry):
            writer.write_index_if_due()
            return Revocation(version=entry.version, episodes=chosen)


def revoke_selected(store: ObjectStore, selection: Selection, *, reason: str | None = None) -> Revocation:
    """Revoke the episodes of the newest snapshot that fulfil a selection.

    Raises:
        ConfigError: if the selection has no condition, or names an episode that was never committed.
        StoreError: as `commit_revocation`.
    """
    reader = newest_log(store)
    require_known(reader.snapshot, selection)

    def choose(reader: LogReader) -> list[str]:
        return [entry.identity for entry in selection.of(reader.snapshot.episodes.values())]

    # As a coordinator that starts: an entry's epoch says which writer made it.
    return commit_revocation(reader, LogWriter(store, reader), choose, epoch=reader.epoch + 1, reason=reason)


def newest_log(store: ObjectStore) -> LogReader:
    """Return a reader at the newest snapshot.

    Raises:
        StoreError: if the log cannot be read.
    """
    reader = LogReader(store)
    reader.load_index()
    reader.poll()
    return reader


def require_known(snapshot: Snapshot, selection: Selection) -> None:
    """Refuse a selection that would revoke everything, or that names an unknown episode.

    Raises:
        ConfigError: if it does, or if it names an id that several robots have.
    """
    if selection.selects_everything:
        raise ConfigError("nothing says which episodes: give --robot, --since, --task, --policy-version or --episode")
    named = selection.episodes - snapshot.revoked
    of_id: dict[str, list[EpisodeEntry]] = {}
    for item in snapshot.episodes.values() if named else ():
        of_id.setdefault(item.entry.episode_id, []).append(item.entry)
    if selection.robot is None:
        for name in sorted(named & of_id.keys()):
            require_one_robot(name, of_id[name])
    revoked_ids = {identity.rpartition("/")[2] for identity in snapshot.revoked}
    unknown = sorted(named - snapshot.episodes.keys() - of_id.keys() - revoked_ids)
    if unknown:
        raise ConfigError(
            f"episode {', '.join(unknown[:5])}{' ...' if unknown[5:] else ''} is not in the log (version "
            f"{snapshot.version}): `lwd data list` shows the ids"
        )


def commit_entry(reader: LogReader, writer: LogWriter, entry: LogEntry) -> bool:
    """Try one version; after a lost answer, find out what became of it.

    Returns:
        False if another writer was faster.
    Raises:
        StoreError: if the store fails; the entry may or may not be committed.
    """
    wait_s = _FIRST_WAIT_S
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            # Repeating it is harmless: our own bytes under that version mean that it is committed.
            return writer.commit(entry)
        except StoreError:
            if attempt == _ATTEMPTS or reader.version >= entry.version:
                raise
            time.sleep(wait_s)
            wait_s *= 2
    raise AssertionError("unreachable")
