"""The store as one run uses it: the store that the run knows, with the log that the run knows, or an error.

The run's directory remembers the store's identity (known-store.json) and the newest version that was committed from
there (known-log.json). Before the first use and then every few seconds the store is compared with them.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lwd.commands import lwd_command
from lwd.data.fresh_read import CachedStore
from lwd.data.identity import IDENTITY_KEY, StoreNote, found_store
from lwd.data.log_head import LOG_PREFIX, LogNote, log_key, sha256_of_entry, version_of
from lwd.data.store import Created, DirectoryStore, ObjectStore, StoreConfig, StoredObject, get_or_none, open_store
from lwd.errors import StoreError

STORE_NOTE = "known-store.json"
LOG_NOTE = "known-log.json"
LOOK_EVERY_S = 5.0
"""Between two comparisons of the identity: one small GET for each process. (A directory is compared at each use.)"""
_COMPARED_AT_ONCE = (f"{LOG_PREFIX}/", "quarantine/", "policies/", "policy-bases/")
"""What its writer will rely on: the identity is compared after each, too. One small GET; a directory does it anyway."""
_WITHOUT_IDENTITY = ("probe/", "readers/")
"""What may be created in a store that has no identity yet."""


class RunStore:
    """An `ObjectStore` that refuses every access while another store, or an older log, is in its place."""

    def __init__(self, inner: ObjectStore, run: Path) -> None:
        self.inner = inner
        self.note = StoreNote(run / STORE_NOTE, f"run {run}")
        self.log_note = LogNote(run / LOG_NOTE)
        self._run = run
        self._lock = threading.Lock()
        self._log_compared = False
        self._look_s = float("-inf")
        self._identified = False

    def __str__(self) -> str:
        return str(self.inner)

    def create(self, key: str, data: bytes) -> Created:
        self._compare()
        if key in (IDENTITY_KEY, log_key(1)):
            self._require_beginning(key)
        elif not self._identified and not key.startswith(_WITHOUT_IDENTITY):
            self._found_older()
        created = self.inner.create(key, data)
        if key == IDENTITY_KEY or (key.startswith(_COMPARED_AT_ONCE) and not isinstance(self.inner, DirectoryStore)):
            self._look_s = float("-inf")
            self._compare()
        if key.startswith(f"{LOG_PREFIX}/"):
            self.log_note.note(version_of(key), sha256_of_entry(data))
        return created

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self._compare()
        return self.inner.get(key, max_bytes=max_bytes)

    def evict(self, key: str) -> None:
        """As `lwd.data.fresh_read.CachedStore`."""
        if isinstance(self.inner, CachedStore):
            self.inner.evict(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        self._compare()
        yield from self.inner.list(prefix, start_after)

    def delete(self, key: str) -> None:
        self._compare()
        self.inner.delete(key)

    def _compare(self) -> None:
        if time.monotonic() < self._look_s:
            return
        with self._lock:
            if time.monotonic() < self._look_s:
                return
            self._identified = self.note.require(self.inner) is not None
            if not self._log_compared:
                self.log_note.require(self.inner)
                self._log_compared = True
            self.log_note.sync()
            if self._identified:
                self._look_s = time.monotonic() + LOOK_EVERY_S

    def _found_older(self) -> None:
        """Give a store of an earlier version, which has a log, its identity; an empty one gets none from here."""
        if get_or_none(self.inner, log_key(1)) is None:
            raise StoreError(
                f"the store at {self} has no identity yet, so nothing is put into it: is the disk mounted? A new one "
                f"begins with `lwd data import`, `{lwd_command('data', 'generate', '--run', self._run)}` (simulated "
                "robots), or `lwd coordinator`"
            )
        found_store(self)

    def _require_beginning(self, key: str) -> None:
        """Refuse to begin a log, or an empty store, where the run has known a log before."""
        if get_or_none(self.inner, log_key(1)) is None and (why := has_known_a_log(self._run)) is not None:
            raise StoreError(
                f"the log in {self} is empty, but {why}: nothing is begun there. Is the disk mounted? Restore the "
                "store, or begin a new run with another --run"
            )


def open_run_store(run: Path, config: StoreConfig | None) -> RunStore:
    """Open the store of a run: the configured one, or RUN/store.

    A run that knows its store creates no directory for it: it is an error until the disk is mounted.

    Raises:
        ConfigError: if the URL or an option is wrong.
        StoreError: if a new directory cannot be created.
    """
    make = not (run / STORE_NOTE).exists()
    return RunStore(open_store(config or StoreConfig(url=str(run / "store")), make=make), run)


def has_known_a_log(run: Path) -> str | None:
    """Say how a run's directory shows that its store has had a log; None if nothing does."""
    if (known := LogNote(run / LOG_NOTE).read()) is not None:
        return f"run {run} has known version {known.version} of it"
    checkpoint = next(run.glob("checkpoints/*/update-*"), None)
    return None if checkpoint is None else f"run {run} has trained on it ({checkpoint})"
