"""The training loop as a generator: logging, checkpoints and publishing stay outside of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lwd.algos.protocol import Algorithm, Metrics
from lwd.batch import TransitionBatch


class BatchSource(Protocol):
    """Batches that depend only on the update's number (and on the replay's content)."""

    def batch(self, update_index: int) -> TransitionBatch:
        """Return the batch of one update."""


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What one update did."""

    update: int
    """Updates done in this stage, this one included."""
    metrics: Metrics


def train(algorithm: Algorithm, batches: BatchSource, *, start: int, stop: int) -> Iterator[UpdateResult]:
    """Yield the result of updates start + 1 to stop."""
    for update in range(start, stop):
        yield UpdateResult(update=update + 1, metrics=algorithm.update(batches.batch(update)))
