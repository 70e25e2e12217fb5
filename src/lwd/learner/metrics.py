"""Where a learner's numbers go: one JSON line per interval, and TensorBoard."""

import json
import os
import time
from collections import defaultdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lwd.algos.protocol import Metrics
from lwd.data import durable


class MetricsLog:
    """Averages metrics over an interval of updates and writes them to RUN/metrics."""

    def __init__(self, run: Path, process: str, stage: str, *, every: int = 50) -> None:
        directory = run / "metrics"
        self.process, self.stage, self.every = process, stage, every
        self._path = directory / f"{process}.jsonl"
        with durable.explained(self._path):
            directory.mkdir(parents=True, exist_ok=True)
            self._file = _without_cut_line(self._path).open("ab", buffering=0)
            self._board = SummaryWriter(str(directory / "tensorboard" / stage))
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, update: int, metrics: Metrics, *, snapshot: int, policy_version: int, extra: Metrics) -> None:
        """Take in one update's metrics; every `every` updates write their means and the `extra` gauges.

        Raises:
            StoreError: if the disk is full.
        """
        for name, value in metrics.items():
            self._values[name].append(value)
        if update % self.every:
            return
        means = {name: sum(values) / len(values) for name, values in self._values.items()} | extra
        self._values.clear()
        row = {
            "time_s": time.time(),
            "process": self.process,
            "stage": self.stage,
            "update": update,
            "snapshot": snapshot,
            "policy_version": policy_version,
            "metrics": means,
        }
        with durable.explained(self._path):
            self._file.write((json.dumps(row) + "\n").encode())
            for name, value in means.items():
                self._board.add_scalar(name, value, update)

    def close(self) -> None:
        """Flush and close.

        Raises:
            StoreError: if the disk is full.
        """
        self._file.close()
        with durable.explained(self._path):
            self._board.close()


def _without_cut_line(path: Path) -> Path:
    """Remove what a crash or a full disk has left of a last line."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    return path
