"""Metrics of a fleet process: one JSON line per interval in RUN/metrics/<process>.jsonl."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

_logger = logging.getLogger(__name__)


class MetricsFile:
    """Appends rows. A crash can cut the last line; a full disk costs rows, never the process that writes them."""

    def __init__(self, run: Path, process: str) -> None:
        directory = run / "metrics"
        directory.mkdir(parents=True, exist_ok=True)
        self._process = process
        self._file = (directory / f"{process}.jsonl").open("ab", buffering=0)
        self._failing = False

    def write(self, metrics: Mapping[str, float], *, snapshot: int, policy_version: int | None = None) -> None:
        """Write one row, stamped with the time; a row that cannot be written is left out."""
        row = {
            "time_s": time.time(),
            "process": self._process,
            "stage": "online",
            "snapshot": snapshot,
            "policy_version": policy_version,
            "metrics": dict(metrics),
        }
        problem = self._append((json.dumps(row) + "\n").encode())
        if problem and not self._failing:
            _logger.warning("metrics are left out, %s cannot be written: %s", self._file.name, problem)
        self._failing = bool(problem)

    def close(self) -> None:
        self._file.close()

    def _append(self, line: bytes) -> str:
        """Append a whole line or nothing. Returns what went wrong, if anything did."""
        try:
            size = os.fstat(self._file.fileno()).st_size
            if self._file.write(line) == len(line):
                return ""
            self._file.truncate(size)
        except OSError as error:
            return error.strerror or type(error).__name__
        return "no space left on its disk"
