"""An operator's decision to go on with a store that is not the one the run knew, such as a restored older copy."""

import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from lwd.data import durable
from lwd.data.identity import StoreNote, found_store
from lwd.data.log import LogEntry, LogReader, LogWriter
from lwd.data.log_head import KnownEntry, LogNote
from lwd.data.revocation import commit_entry, newest_log
from lwd.data.run_store import LOG_NOTE, STORE_NOTE
from lwd.data.store import open_store
from lwd.errors import CheckpointError, StoreError
from lwd.fleet.spool_files import STORE_NOTE as SPOOL_NOTE
from lwd.recipes.run_directory import RunDirectory

HISTORY = "accepted-stores.jsonl"


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What became of the run."""

    store_id: str
    version: int
    """Of the log entry that says that the store was accepted."""
    known_version: int
    """The newest version that the run knew before; 0 if it knew none."""
    set_aside: tuple[Path, ...]
    """What of the learner's online stage does not fit to the store."""


def accept_store(run: RunDirectory, who: str) -> Acceptance:
    """Make the store that is there now the run's, with the log as it ends now.

    The log gets an entry that says so: whoever still knows the other log differs from it from here on. What the learner
    made of the lost versions is set aside, and the online stage begins again from the offline one.

    Raises:
        StoreError: if the store is empty, or its log is damaged or has a hole.
        ConfigError: if a learner runs.
    """
    store = open_store(run.store_config, make=False)
    reader = newest_log(store)
    if reader.version == 0:
        raise StoreError(f"the store at {store} has no log: there is nothing to accept. Is the disk mounted?")
    with run.locked("online"):
        identity = found_store(store)
        note, log_note = StoreNote(run.path / STORE_NOTE, f"run {run.path}"), LogNote(run.path / LOG_NOTE)
        known = log_note.read()
        known_version = 0 if known is None else known.version
        ended = reader.version
        _commit(reader, LogWriter(store, reader), f"{who} accepted this store (before: version {known_version} known)")
        set_aside = _set_aside(run, reader, ended)
        note.write(identity)
        log_note.write(KnownEntry(version=reader.version, sha256=reader.sha256))
        if (run.path / "spool").is_dir():
            StoreNote(run.path / "spool" / SPOOL_NOTE, "the spool").write(identity)
        accepted = Acceptance(
            store_id=identity.store_id, version=reader.version, known_version=known_version, set_aside=set_aside
        )
        _log(run.path / HISTORY, who, str(store), accepted)
    return accepted


def _commit(reader: LogReader, writer: LogWriter, reason: str) -> None:
    epoch = reader.epoch + 1
    while True:
        entry = LogEntry(
            version=reader.version + 1,
            epoch=epoch,
            batch_id=uuid.uuid4().hex,
            committed_at_s=time.time(),
            reason=reason,
        )
        if commit_entry(reader, writer, entry):
            return
        reader.poll()


def _set_aside(run: RunDirectory, reader: LogReader, ended: int) -> tuple[Path, ...]:
    """Move away what the online stage knows of versions that are gone."""
    directory = run.path / "checkpoints" / "online"
    if not directory.is_dir() or not any(directory.iterdir()):
        return ()
    fits = _fits(run, reader, ended)
    target = directory.with_name(f"online.before-version-{reader.version}-{uuid.uuid4().hex[:6]}")
    moved = [directory] if not fits else [path for path in [directory / "snapshots.jsonl"] if path.exists()]
    for path in moved:
        durable.move(path, target if path == directory else target / path.name)
    return tuple(target if path == directory else target / path.name for path in moved)


def _fits(run: RunDirectory, reader: LogReader, ended: int) -> bool:
    """Whether the newest checkpoint is of a snapshot that the log still has."""
    try:
        found = run.checkpoints("online").latest()
    except CheckpointError:
        return False
    if found is None:
        return False
    progress = found.progress
    if not progress.snapshot_sha256 or progress.snapshot > ended:
        return progress.snapshot <= ended and not progress.snapshot_sha256
    before = LogReader(open_store(run.store_config, make=False))
    before.poll(progress.snapshot)
    return before.sha256 == progress.snapshot_sha256


def _log(path: Path, who: str, store: str, accepted: Acceptance) -> None:
    row = {
        "time_s": time.time(),
        "who": who,
        "store": store,
        "store_id": accepted.store_id,
        "version": accepted.version,
        "known_version": accepted.known_version,
        "set_aside": [str(item) for item in accepted.set_aside],
    }
    lines = path.read_bytes() if path.exists() else b""
    durable.replace(path, lines + json.dumps(row).encode() + b"\n")
