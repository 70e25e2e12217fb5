"""Metrics of a fleet process: one JSON line per interval in RUN/metrics/<process>.jsonl."""

import json
import time
from collections.abc import Mapping
from pathlib import Path


class MetricsFile:
    """Appends rows; a crash can cut the last line only."""

    def __init__(self, run: Path, process: str) -> None:
        directory = run / "metrics"
        directory.mkdir(parents=True, exist_ok=True)
        self._process = process
        self._file = (directory / f"{process}.jsonl").open("a", encoding="utf-8")

    def write(self, metrics: Mapping[str, float], *, snapshot: int, policy_version: int | None = None) -> None:
        """Write one row, stamped with the time."""
        row = {
            "time_s": time.time(),
            "process": self._process,
            "stage": "online",
            "snapshot": snapshot,
            "policy_version": policy_version,
            "metrics": dict(metrics),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
