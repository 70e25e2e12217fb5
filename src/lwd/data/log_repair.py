"""A log entry that is damaged or missing, made again from a later index.

An index holds every live episode with the version that added it, and the names of all revoked ones. What it does not
hold are episodes that were revoked before it was written: the snapshots between lack them from then on.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError

from lwd.data.log import EpisodeEntry, LogEntry
from lwd.data.log_index import LogIndex


def rebuilt_entries(
    lost: Sequence[int], entries: Mapping[int, LogEntry], indexes: Collection[LogIndex]
) -> dict[int, LogEntry]:
    """Return the entries among the lost versions that an index covers, such that the log folds to that index again.

    Args:
        lost: versions, ascending.
        entries: the intact entries by version.
        indexes: intact ones.
    """
    made: dict[int, LogEntry] = {}
    for index in sorted(indexes, key=lambda item: item.version):
        covered = [version for version in lost if version <= index.version and version not in made]
        if not covered:
            continue
        known = {**entries, **made}
        revoked = _revocations(covered, known, index)
        for version in covered:
            try:
                made[version] = _entry(version, known, index, revoked.get(version, ()))
            except ValidationError:
                continue  # a row that is no episode; the next index may have it
    return made


def filler_entry(version: int, entries: Mapping[int, LogEntry]) -> LogEntry:
    """Return an entry without episodes, for a version that nobody can make again."""
    return _made(version, entries, added=(), revoked=(), reason="filler: `lwd data verify --repair --fill-holes`")


def _entry(version: int, entries: Mapping[int, LogEntry], index: LogIndex, revoked: Sequence[str]) -> LogEntry:
    rows = [row for row in index.rows if row["version"] == version]
    described = [
        {name: value for name, value in row.items() if name not in ("version", "committed_at_s")} for row in rows
    ]
    return _made(
        version,
        entries,
        added=tuple(EpisodeEntry.model_validate(row) for row in described),
        revoked=tuple(revoked),
        reason=f"made again from the index of version {index.version}: `lwd data verify --repair`",
        committed_at_s=rows[0]["committed_at_s"] if rows else None,
    )


def _made(
    version: int,
    entries: Mapping[int, LogEntry],
    *,
    added: tuple[EpisodeEntry, ...],
    revoked: tuple[str, ...],
    reason: str,
    committed_at_s: float | None = None,
) -> LogEntry:
    before = [entries[number] for number in sorted(entries) if number < version]
    after = [entries[number] for number in sorted(entries) if number > version]
    near = next(iter((*before[-1:], *after[:1])), None)
    return LogEntry(
        version=version,
        epoch=1 if near is None else near.epoch,
        batch_id=uuid.uuid4().hex,
        committed_at_s=committed_at_s or (0.0 if near is None else near.committed_at_s),
        added=added,
        revoked=revoked,
        reason=reason,
    )


def _revocations(lost: Sequence[int], entries: Mapping[int, LogEntry], index: LogIndex) -> dict[int, list[str]]:
    """Say in which lost versions the revocations were that no intact entry has."""
    explained = {name for entry in entries.values() for name in entry.revoked}
    added = {
        name: version
        for version, entry in entries.items()
        for item in entry.added
        for name in (item.episode_id, f"{item.robot_id}/{item.episode_id}")
    }
    found: dict[int, list[str]] = {}
    for name in sorted(set(index.revoked) - explained):
        # As early as possible: revoked data is unwanted. But not before it was added.
        later = [version for version in lost if version > added.get(name, 0)]
        found.setdefault((later or list(lost[-1:]))[0], []).append(name)
    return found
