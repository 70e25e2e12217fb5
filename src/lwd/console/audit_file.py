"""The audit log's file: a chain of lines, each with the SHA-256 of the one before.

Several consoles of one run append to one file: a lock is held from reading the last line to having written the next.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

FIRST = "0" * 64
_MAX_LINE = 1 << 20

_logger = logging.getLogger(__name__)


class BrokenChain(Exception):
    """A line does not follow the line before."""


class AuditFile:
    """Appends lines that follow what is there; a file that somebody changed is kept aside, and a new one begun."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._size = self.lines = 0
        self._last = FIRST
        self.log_id = ""
        """Hash of the first line: which log this is. Empty: it has none yet."""

    @property
    def last(self) -> str:
        """Hash of the last line."""
        return self._last

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows durably: all of them, or none.

        Raises:
            OSError: if the disk does not take them; the file is as it was.
        """
        with self._locked():
            rows = [*self._catch_up(), *rows]
            last, lines = self._last, []
            for row in rows:
                line = json.dumps({**row, "previous": last}, sort_keys=True).encode() + b"\n"
                last = hashlib.sha256(line).hexdigest()
                lines.append(line)
            self._write(b"".join(lines))
            self._size += sum(map(len, lines))
            self.lines += len(lines)
            self._last = last
            self.log_id = self.log_id or hashlib.sha256(lines[0]).hexdigest()

    def refresh(self) -> None:
        """Read what other consoles have appended.

        Raises:
            OSError: if the disk does not let us.
        """
        with self._locked():
            first = self._catch_up()
        if first:
            self.append(first)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes) -> None:
        """One write: a reader of the file sees whole lines. What was not written completely is taken back."""
        try:
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes were written")
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Not the log itself: it may be renamed.
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _catch_up(self) -> list[dict[str, Any]]:
        """Read what is new in the file. Returns with which rows a new one begins, if somebody has changed it."""
        try:
            self._open()
            self._read_new()
        except BrokenChain as error:
            aside = self._set_aside()
            _logger.error("audit log %s: %s; it is kept as %s, and a new one begins", self._path, error, aside)
            self._open()
            why = f"the log before is kept as {aside}: {error}"
            return [{"time_s": time.time(), "who": "console", "what": "log begun anew", "why": why}]
        return []

    def _open(self) -> None:
        """Open the file that has the path now."""
        if self._file >= 0:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    return
            self.close()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = self.lines = 0
        self._last, self.log_id = FIRST, ""

    def _read_new(self) -> None:
        if os.fstat(self._file).st_size < self._size:
            raise BrokenChain(f"it is shorter than the {self.lines} lines that were written")
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(self._size)
            for line, last in chain(file, self._last, self.lines):
                self.log_id = self.log_id or last
                self._size += len(line)
                self.lines += 1
                self._last = last
        if os.fstat(self._file).st_size > self._size:
            # A console died in the middle of a line; what it was about was never answered.
            os.ftruncate(self._file, self._size)

    def _set_aside(self) -> str:
        name = f"{self._path.name}.changed-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        number = 0
        while (target := self._path.with_name(f"{name}-{number}" if number else name)).exists():
            number += 1
        self._path.rename(target)
        self.close()
        return target.name


def chain(file: BinaryIO, last: str, number: int) -> Iterator[tuple[bytes, str]]:
    """Yield each whole line with its hash, as long as they follow one another.

    Args:
        last: hash of the line before the first.
        number: of the lines before.
    Raises:
        BrokenChain: at the first line that does not follow.
    """
    while line := file.readline(_MAX_LINE):
        number += 1
        if not line.endswith(b"\n"):
            if len(line) < _MAX_LINE:
                return
            raise BrokenChain(f"line {number} is longer than {_MAX_LINE} bytes")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or row.get("previous") != last:
            raise BrokenChain(f"line {number} does not follow the line before: somebody changed the file")
        last = hashlib.sha256(line).hexdigest()
        yield line, last
