"""Leases: how a reader of the replay tells retention which snapshot it is at.

A lease is a few small create-only objects below `readers/<reader id>/`, a new one every RENEW_S; the key says the
version. Nothing is locked: whoever removes objects looks at the leases, and writes down what it removes before it
looks. So of a reader that begins and a retention that runs, at least one sees the other:

    reader:     1. create a lease at v      2. read the removal records: is anything of snapshot v in them?
    retention:  1. create a removal record  2. list the leases: does any still need what is in it?

No clock of a machine decides: a lease's age is the difference of two modification times of the store.
"""

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.outage import Outage
from lwd.data.store import ObjectStore, StoredObject
from lwd.errors import StoreError

READERS_PREFIX = "readers"
RENEW_S = 30.0
EXPIRES_S = 600.0
"""A lease that was not renewed for so long, by the store's own times, is taken for dead."""
REMOVED_PREFIX = "removed"

_KEY = re.compile(rf"^{READERS_PREFIX}/([^/]+)/(\d{{12}})-(\d{{12}})$")
_logger = logging.getLogger(__name__)


class RemovedEpisode(BaseModel):
    """An episode whose object retention removed, or was about to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    episode_id: str
    """Its identity (ROBOT/ID)."""
    added: int = Field(ge=1)
    """Version that added it."""
    revoked: int = Field(ge=1)
    """Version that revoked it: the snapshots from `added` to `revoked` - 1 can no longer be read in full."""


class RemovalRecord(BaseModel):
    """What one run of retention set out to remove."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["lwd-removed-1"] = "lwd-removed-1"
    snapshot: int = Field(ge=0)
    """The newest version at that time."""
    episodes: tuple[RemovedEpisode, ...]


class SnapshotLease:
    """Keeps everything that a reader at a snapshot version may still fetch, until it is closed.

    From `version` on, every episode of every snapshot stays: only what was revoked at or before it may go.
    A daemon thread renews it; a store that cannot be reached for EXPIRES_S ends it.
    """

    def __init__(self, store: ObjectStore, version: int | None = None, *, renew_s: float = RENEW_S) -> None:
        """Take a lease.

        Args:
            version: the snapshot that is going to be read. None: the newest one at whatever moment it is read
                (and until `move`, nothing that is revoked from now on goes).
        Raises:
            StoreError: if retention has removed an episode of snapshot `version` or a later one, or the store fails.
        """
        self._store = store
        self._version = version or 0
        self._renew_s = renew_s
        self._count = 0
        self._keys: list[str] = []
        self.reader_id = f"{_name(socket.gethostname())}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot-lease", daemon=True)
        self._renew()
        try:
            if version is not None:
                _require_complete(store, version)
        except BaseException:
            self._release()
            raise
        self._thread.start()

    @property
    def version(self) -> int:
        """The snapshot that the next renewal names."""
        return self._version

    def move(self, version: int) -> None:
        """Say that older snapshots than `version` are not needed any more; told to the store at the next renewal."""
        self._version = max(self._version, version)

    def close(self) -> None:
        """Give the lease up."""
        self._stop.set()
        self._thread.join()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        outage = Outage(f"the lease of reader {self.reader_id} is not renewed", "reading goes on")
        while not self._stop.wait(self._renew_s):
            try:
                self._renew()
                outage.succeeded()
            except StoreError as error:
                outage.failed(error)

    def _renew(self) -> None:
        version = self._version
        key = f"{READERS_PREFIX}/{self.reader_id}/{self._count:012d}-{version:012d}"
        # After a lost answer the next try has another key: both are ours, the newer one counts.
        self._count += 1
        self._keys.append(key)
        body = {"reader": self.reader_id, "version": version}
        self._store.create(key, json.dumps(body).encode())
        # The one before stays: a listing that runs meanwhile may miss the new one, and would find none.
        while len(self._keys) > 2:
            self._store.delete(self._keys[0])
            self._keys.pop(0)

    def _release(self) -> None:
        try:
            for key in self._keys:
                self._store.delete(key)
        except StoreError as error:
            _logger.warning("the lease of reader %s stays until it expires (%s)", self.reader_id, error)


@dataclass(frozen=True, kw_only=True)
class FoundLease:
    """A lease as the store shows it."""

    reader_id: str
    version: int
    renewals: int
    age_s: float
    """Since its last renewal, by the store's times."""
    keys: tuple[str, ...]

    @property
    def live(self) -> bool:
        return self.age_s < EXPIRES_S


def store_time_s(store: ObjectStore) -> float:
    """Return the present time as the store stamps it on its objects.

    Raises:
        StoreError: if the store cannot be written.
    """
    key = f"probe/time-{uuid.uuid4().hex}"
    store.create(key, b"")
    try:
        for item in store.list("probe"):
            if item.key == key:
                return item.modified_s
    finally:
        store.delete(key)
    raise StoreError(f"{key} was created and is not listed: use a store whose listings are consistent")


def find_leases(store: ObjectStore, now_s: float) -> list[FoundLease]:
    """Return every reader's lease, dead ones too.

    Args:
        now_s: `store_time_s` of a moment ago.
    Raises:
        StoreError: if the store cannot be listed.
    """
    found: dict[str, list[tuple[int, int, StoredObject]]] = {}
    for item in store.list(READERS_PREFIX):
        if (match := _KEY.match(item.key)) is not None:
            found.setdefault(match[1], []).append((int(match[2]), int(match[3]), item))
    leases = []
    for reader_id, items in found.items():
        renewals, version, newest = max(items, key=lambda item: item[0])
        leases.append(
            FoundLease(
                reader_id=reader_id,
                version=version,
                renewals=renewals,
                age_s=now_s - newest.modified_s,
                keys=tuple(item.key for _, _, item in items),
            )
        )
    return leases


def confirmed_dead(store: ObjectStore, suspects: Iterable[FoundLease], wait_s: float) -> dict[str, int]:
    """Return reader id -> renewals of the readers among `suspects` that renew nothing within `wait_s`.

    A clock that was set (a directory's times are its machine's) makes a live lease look old; watching it does not.
    """
    before = {lease.reader_id: lease.renewals for lease in suspects}
    if not before:
        return {}
    time.sleep(wait_s)
    after = {lease.reader_id: lease.renewals for lease in find_leases(store, 0.0)}
    return {reader_id: renewals for reader_id, renewals in before.items() if after.get(reader_id) == renewals}


def record_removal(store: ObjectStore, record: RemovalRecord) -> None:
    """Write down what is going to be removed; from now on no lease is granted that would need it.

    Raises:
        StoreError: if the store cannot be written.
    """
    store.create(f"{REMOVED_PREFIX}/{record.snapshot:012d}-{uuid.uuid4().hex}.json", record.model_dump_json().encode())


def read_removals(store: ObjectStore) -> list[RemovalRecord]:
    """Return all removal records.

    Raises:
        StoreError: if one cannot be read.
    """
    records = []
    for item in store.list(REMOVED_PREFIX):
        try:
            records.append(RemovalRecord.model_validate_json(store.get(item.key)))
        except ValidationError as error:
            raise StoreError(f"{item.key} is no removal record: restore it from a copy of the store") from error
    return records


def _require_complete(store: ObjectStore, version: int) -> None:
    gone: Sequence[RemovedEpisode] = [
        episode
        for record in read_removals(store)
        for episode in record.episodes
        # Also one that was added later: a reader at `version` may go through the snapshots that held it.
        if version < episode.revoked
    ]
    if gone:
        first = min(gone, key=lambda episode: episode.revoked)
        raise StoreError(
            f"the snapshots from {version} on can no longer be read in full: {first.episode_id} was revoked at version "
            f"{first.revoked} and `lwd data retain` removed it ({len({item.episode_id for item in gone})} such "
            "episodes): begin the stage again on the newest snapshot, or restore the store from a copy"
        )


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]", "-", text)[:64] or "host"
