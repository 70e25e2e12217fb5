"""The newest log entry that somebody knows: by it, a store that was restored from an older copy is recognised.

The log only grows, and its entries never change. Who has read version v may therefore expect to find the same
bytes there for ever; where they are not, the store is an older copy, or another log, and nothing may be written.
"""

import hashlib
import logging
import os
import time
import weakref
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data import durable
from lwd.data.store import ObjectStore, get_or_none
from lwd.errors import StoreError

LOG_PREFIX = "log"
_SYNC_EVERY_S = 1.0
_RECORD_BYTES = 160
_REMEDY = (
    "mount or restore the newest copy; to go on with this older one, see `lwd data verify --run RUN --accept-restored`"
)
_logger = logging.getLogger(__name__)


class OlderLog(StoreError):
    """The store's log is not the one that was known: it ends earlier, or went another way."""


def log_key(version: int) -> str:
    """Return the key of a version; keys sort as versions do."""
    return f"{LOG_PREFIX}/{version:012d}.json"


def version_of(key: str) -> int:
    """Return the version of a key that `log_key` made."""
    return int(key.removeprefix(f"{LOG_PREFIX}/").removesuffix(".json"))


def sha256_of_entry(data: bytes) -> str:
    """Return what identifies an entry."""
    return hashlib.sha256(data).hexdigest()


def require_entry(store: ObjectStore, version: int, sha256: str, who: str) -> bytes:
    """Read an entry that is known, and return it.

    Args:
        who: knows it; for the message.
    Raises:
        OlderLog: if the store has none of that version, or another one.
        StoreError: if the store cannot be read.
    """
    data = get_or_none(store, log_key(version))
    if data is None:
        raise OlderLog(f"the log in {store} ends before version {version}, which {who} knows: {_REMEDY}")
    if (found := sha256_of_entry(data)) != sha256:
        raise OlderLog(
            f"version {version} of the log in {store} is not the one that {who} knows (sha256 {found[:12]}, expected "
            f"{sha256[:12]}): {_REMEDY}"
        )
    return data


def require_no_gap(store: ObjectStore, version: int) -> None:
    """Make sure that a log which seems to end at a version has no later entries.

    Raises:
        StoreError: if it has, or the store cannot be read.
    """
    later = next(iter(store.list(LOG_PREFIX, start_after=log_key(version + 1))), None)
    # Asked after the listing: another writer may just have committed both.
    if later is not None and get_or_none(store, log_key(version + 1)) is None:
        raise StoreError(
            f"the log in {store} lacks version {version + 1}, but has {later.key}: see `lwd data verify --run RUN "
            "--repair`; nothing is committed meanwhile"
        )


class KnownEntry(BaseModel):
    """A version of the log and the hash of its entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LogNote:
    """RUN/known-log.json: the newest entry that a process of the run has committed.

    It is on the disk within a second, and outlives the process at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced_s = float("-inf")
        self._pending = False
        self._known: KnownEntry | None = None
        self._descriptor = -1

    def read(self) -> KnownEntry | None:
        """Return what the file says; None without one. A damaged one (a power cut) is worth nothing."""
        try:
            return KnownEntry.model_validate_json(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError:
            _logger.warning("%s is damaged: not used; it is written again with the next commit", self.path)
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.path} ({error.strerror}): check it and its permissions") from error

    def require(self, store: ObjectStore) -> None:
        """Make sure that the store has the entry.

        Raises:
            OlderLog: if it has not.
            StoreError: if store or file cannot be read.
        """
        if (known := self.read()) is not None:
            require_entry(store, known.version, known.sha256, f"this run ({self.path})")

    def note(self, version: int, sha256: str) -> None:
        """Note a committed entry, newer than the ones before."""
        if self._known is not None and version <= self._known.version:
            return
        self._known = KnownEntry(version=version, sha256=sha256)
        try:
            with durable.explained(self.path):
                if self._descriptor < 0:
                    durable.ensure_directory(self.path.parent)
                    self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                    weakref.finalize(self, os.close, self._descriptor)
                # In place: a commit costs .7 ms, and replacing a file would add to it.
                os.pwrite(self._descriptor, self._known.model_dump_json().encode().ljust(_RECORD_BYTES), 0)
                self._pending = True
            self.sync()
        except StoreError as error:
            # The commit is done; a disk that is full must not make it look undone.
            _logger.warning("%s; the newest version is not noted", error)

    def sync(self) -> None:
        """Bring the note to the disk, at most once a second.

        Raises:
            StoreError: if the disk fails.
        """
        if self._pending and time.monotonic() - self._synced_s >= _SYNC_EVERY_S:
            with durable.explained(self.path):
                os.fsync(self._descriptor)
                durable.sync_directory(self.path.parent)
            self._synced_s, self._pending = time.monotonic(), False

    def write(self, known: KnownEntry | None) -> None:
        """Replace what is known, by an operator's decision; None: nothing is.

        Raises:
            StoreError: if it cannot be written.
        """
        if known is None:
            durable.remove(self.path)
        else:
            durable.replace(self.path, known.model_dump_json().encode())
