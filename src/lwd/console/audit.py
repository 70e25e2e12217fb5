"""The audit log: who took which robot, labelled what, logged in. Lines are only ever appended.

Each line holds the SHA-256 of the line before, so that a line that was changed or taken out shows.
"""

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from lwd.data import durable
from lwd.errors import ConfigError

_FIRST = "0" * 64


class AuditLog:
    """RUN/console/audit.jsonl. Appending is durable on return."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ConfigError: if the file was changed, or cannot be written.
        """
        durable.ensure_directory(path.parent)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the audit log {path} cannot be written ({error.strerror})") from error
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            # The console died in the middle of a line; what it was about was never answered.
            os.ftruncate(self._file, sum(map(len, lines[:-1])))
            lines.pop()
        self._last = _check(path, lines)

    def append(self, who: str, what: str, **details: Any) -> None:
        """Write one line and flush it to the disk."""
        with self._lock:
            row = {"time_s": time.time(), "who": who, "what": what, **details, "previous": self._last}
            line = json.dumps(row, sort_keys=True).encode() + b"\n"
            os.write(self._file, line)
            os.fsync(self._file)
            self._last = hashlib.sha256(line).hexdigest()

    def tail(self, count: int) -> list[dict[str, Any]]:
        """Return the last lines, newest first."""
        with self._lock:
            lines = self._path.read_bytes().splitlines()
        return [json.loads(line) for line in reversed(lines[-count:])]

    def close(self) -> None:
        os.close(self._file)


def _check(path: Path, lines: list[bytes]) -> str:
    last = _FIRST
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = {}
        if row.get("previous") != last:
            raise ConfigError(
                f"line {number} of the audit log {path} does not follow the line before: somebody changed the file; "
                "keep it aside as evidence, and start with a new one"
            )
        last = hashlib.sha256(line).hexdigest()
    return last
