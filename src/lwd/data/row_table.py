"""A file of fixed size that keeps rows of bytes by their keys: the newest pushes out the oldest.

For what is expensive to compute and known by what it was computed from. It is a cache: losing it loses time. A row is
found only whole and only under its own key, whatever happened to the process or the machine that wrote it.
"""

import errno
import fcntl
import json
import logging
import os
import sys
import zlib
from pathlib import Path

import numpy as np

from lwd.data import durable
from lwd.errors import ConfigError
from lwd.types import ByteArray

KEY_BYTES = 32
_FORMAT = 1
_HEADER_BYTES = 4096
_ALIGNED = 64
"""Rows begin at multiples of it, so that they can be read as numbers in place."""
_ENTRY = np.dtype([("key", f"V{KEY_BYTES}"), ("number", "<u8"), ("size", "<u8"), ("crc", "<u4"), ("", "V12")])
"""Of a slot. Rows are numbered from 1 as they come; 0: nothing to be read here."""
_logger = logging.getLogger(__name__)


class RowTable:
    """Rows of at most `row_bytes` bytes in one file, in the order in which they came, round and round.

    One process at a time. `get` and `put` are for one thread.
    """

    def __init__(self, path: Path, *, row_bytes: int, budget_bytes: int, content: str, at_least: int = 1) -> None:
        """Open the table at a path, with the rows that are there if it was made with the same arguments.

        Args:
            budget_bytes: the file never becomes larger; all of it is reserved at once.
            content: says what rows are besides their keys: rows of other content are forgotten.
            at_least: rows that it must hold.
        Raises:
            ConfigError: if the budget is too small, or another process has the table open.
            StoreError: if the disk has no space for it.
        """
        self.row_bytes = row_bytes
        self._slot_bytes = -(-row_bytes // _ALIGNED) * _ALIGNED
        self.rows = max(0, budget_bytes - _HEADER_BYTES) // (self._slot_bytes + _ENTRY.itemsize)
        """Rows that there is room for."""
        if self.rows < max(1, at_least):
            needed = _HEADER_BYTES + max(1, at_least) * (self._slot_bytes + _ENTRY.itemsize)
            raise ConfigError(
                f"{budget_bytes} bytes hold {self.rows} rows of {row_bytes} bytes, at least {max(1, at_least)} are "
                f"needed: give {needed} bytes or more"
            )
        self.hits = self.misses = 0
        """Look-ups since the table was opened."""
        described = {"format": _FORMAT, "row_bytes": row_bytes, "rows": self.rows, "content": content}
        header = json.dumps(described).encode().ljust(_HEADER_BYTES)
        with durable.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            try:
                self._lock(path)
                self._prepare(path, header)
            except BaseException:
                self._file.close()
                raise
            buffer = np.memmap(self._file, dtype=np.uint8, mode="r+").view(np.ndarray)
        end = _HEADER_BYTES + self.rows * _ENTRY.itemsize
        self._entries = buffer[_HEADER_BYTES:end].view(_ENTRY)
        self._slots = buffer[end:].reshape(self.rows, self._slot_bytes)
        written = np.flatnonzero(self._entries["number"])
        self._slot_of_key = {self._entries["key"][slot].tobytes(): int(slot) for slot in written}
        # What an earlier process wrote is compared with its checksum when it is first read.
        self._checked = np.zeros(self.rows, dtype=np.bool_)
        self._newest = int(self._entries["number"].max())
        self._next = (int(self._entries["number"].argmax()) + 1) % self.rows if written.size else 0

    def __len__(self) -> int:
        """Rows that can be found."""
        return len(self._slot_of_key)

    @property
    def kept_bytes(self) -> int:
        """Bytes that the rows occupy, of the file's, which are all reserved."""
        return len(self) * self._slot_bytes

    def get(self, key: bytes) -> ByteArray | None:
        """Return the row of a key, if it is there; a view that the next `put` may write to."""
        slot = self._slot_of_key.get(key)
        if slot is not None and not self._checked[slot]:
            if self._checksum(slot) == self._entries["crc"][slot]:
                self._checked[slot] = True
            else:
                self._forget(slot)
                slot = None
        if slot is None:
            self.misses += 1
            return None
        self.hits += 1
        return self._slots[slot, : int(self._entries["size"][slot])]

    def put(self, key: bytes, row: ByteArray) -> None:
        """Keep a row (n,), in place of the oldest one where the table is full. A key's first row stays.

        Raises:
            ConfigError: if key or row have another size than the table's.
        """
        if len(key) != KEY_BYTES or row.shape[0] > self.row_bytes:
            raise ConfigError(
                f"a key of {len(key)} and a row of {row.shape[0]} bytes do not fit into a table with keys of "
                f"{KEY_BYTES} and rows of {self.row_bytes} bytes"
            )
        if key in self._slot_of_key:
            return
        slot, self._next = self._next, (self._next + 1) % self.rows
        self._forget(slot)
        entry = self._entries[slot : slot + 1]
        self._slots[slot, : row.shape[0]] = row
        entry["key"], entry["size"] = np.void(key), row.shape[0]
        self._newest += 1
        entry["crc"] = self._checksum(slot, number=self._newest)
        # Last: a process that is killed before leaves an empty slot. A power cut may keep any part of it: see the crc.
        entry["number"] = self._newest
        self._slot_of_key[key] = slot
        self._checked[slot] = True

    def close(self) -> None:
        """Let other processes open the table."""
        if not self._file.closed:
            # The map holds a copy of the descriptor, and with it the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process has {path} open: wait for it, or use another directory") from error

    def _prepare(self, path: Path, header: bytes) -> None:
        """Make the file what the header says, empty unless it is that already."""
        size = _HEADER_BYTES + self.rows * (self._slot_bytes + _ENTRY.itemsize)
        found = self._file.read(_HEADER_BYTES)
        if found == header and os.fstat(self._file.fileno()).st_size == size:
            return
        if found:
            _logger.warning("%s is of another backbone, budget or version: it begins anew", path)
        self._file.truncate(0)
        disk = os.fstatvfs(self._file.fileno())
        if disk.f_bavail * disk.f_frsize < size:
            # Asked for more than there is, some file systems take all there is before they refuse.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sys.platform == "linux":
            # Real space, not a promise: a write into a map whose disk is full kills the process (SIGBUS).
            os.posix_fallocate(self._file.fileno(), 0, size)
        self._file.truncate(size)
        self._file.seek(0)
        self._file.write(header)

    def _forget(self, slot: int) -> None:
        key = self._entries["key"][slot].tobytes()
        if self._slot_of_key.get(key) == slot:
            del self._slot_of_key[key]
        self._entries["number"][slot] = 0
        self._checked[slot] = False

    def _checksum(self, slot: int, number: int | None = None) -> int:
        entry = self._entries[slot]
        number = int(entry["number"]) if number is None else number
        # A size that a power cut has made may be any number.
        size = min(int(entry["size"]), self._slot_bytes)
        head = zlib.crc32(entry["key"].tobytes() + number.to_bytes(8, "little") + size.to_bytes(8, "little"))
        return zlib.crc32(self._slots[slot, :size].data, head)
