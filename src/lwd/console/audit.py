"""The audit log: who took which robot, labelled what, logged in. Lines are only ever appended.

Nobody waits for the disk: a thread writes, and what a full disk makes it lose is counted in the next line.
"""

import json
import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from lwd.console.audit_file import AuditFile
from lwd.data import durable
from lwd.errors import ConfigError, StoreError
from lwd.fleet.backoff import Backoff
from lwd.fleet.complaints import Complaints

MAX_WAITING = 4096
_AT_ONCE = 256
_TAIL_BYTES = 16 << 20
_FLUSH_S = 2.0
_CLOSE_S = 5.0
_REST_FIRST_S, _REST_MOST_S = 0.2, 10.0

_logger = logging.getLogger(__name__)


class AuditLog:
    """RUN/console/audit.jsonl, written soon after `append`."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ConfigError: if the file cannot be opened by us. One that somebody changed is kept aside.
        """
        self.path = path
        self._file = AuditFile(path)
        self._complaints = Complaints(_logger)
        try:
            durable.ensure_directory(path.parent)
            self._file.refresh()
        except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
            raise ConfigError(f"the audit log {path} cannot be written ({error.strerror})") from error
        except (OSError, StoreError) as error:
            _logger.error("the audit log %s cannot be written now (%s); trying again", path, error)
        self._rows: deque[dict[str, Any]] = deque()
        self._lost = 0
        self._accepted = self._done = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write, name="audit log", daemon=True)
        self._writer.start()

    def append(self, who: str, what: str, **details: Any) -> None:
        """Note one line; never waits for the disk, and never fails."""
        row = {"time_s": time.time(), "who": who, "what": what, **details}
        with self._changed:
            if len(self._rows) >= MAX_WAITING:
                self._lost += 1
                return
            self._rows.append(row)
            self._accepted += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float = _FLUSH_S) -> bool:
        """Wait until all lines so far are on the disk. Returns whether they are."""
        with self._changed:
            until = self._accepted
            return self._changed.wait_for(lambda: self._done >= until, timeout_s)

    def state(self) -> tuple[str, int, str]:
        """Return the log's id, its number of lines, and the hash of the last one."""
        with self._changed:
            return self._file.log_id, self._file.lines, self._file.last

    def tail(self, count: int) -> list[dict[str, Any]]:
        """Return the last lines, newest first."""
        self.flush()
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
        if size > _TAIL_BYTES:
            del lines[0]
        return [json.loads(line) for line in reversed(lines[-count:])]

    def close(self) -> None:
        """Write what waits, for five seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(_CLOSE_S)
        if self._writer.is_alive():
            _logger.error("audit log %s: %d lines were not written", self.path, self._accepted - self._done)

    def _write(self) -> None:
        backoff = Backoff(first_s=_REST_FIRST_S, most_s=_REST_MOST_S)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._lost or self._closing)
                rows = [self._rows[index] for index in range(min(_AT_ONCE, len(self._rows)))]
                lost = self._lost
                if not rows and not lost:
                    self._file.close()
                    return
            extra = [{"time_s": time.time(), "who": "console", "what": "lines lost", "count": lost}] if lost else []
            try:
                self._file.append([*rows, *extra])
            except OSError as error:
                self._complaints.warn("disk", "audit log %s: %s; %d lines wait", self.path, error, len(self._rows))
                with self._changed:
                    if self._closing:
                        self._file.close()
                        return
                    self._changed.wait_for(lambda: self._closing, backoff.failed())
                continue
            backoff.succeeded()
            with self._changed:
                for _ in rows:
                    self._rows.popleft()
                self._lost -= lost
                self._done += len(rows)
                self._changed.notify_all()
