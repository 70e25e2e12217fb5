"""One stage of training on a fixed snapshot, from where it was interrupted to its end."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lwd.algos.protocol import Algorithm
from lwd.errors import ResumeError
from lwd.learner.checkpoint import Checkpoint, CheckpointStore, Progress
from lwd.learner.loop import BatchSource, UpdateResult, train


@dataclass(frozen=True, kw_only=True)
class StageFiles:
    """What a stage writes into its checkpoints beside the algorithm's state."""

    policy: Callable[[], bytes]
    value: Callable[[], bytes] | None
    config: dict[str, Any]


class Stage:
    """Runs an algorithm for a number of updates; saves every `save_every_s` and at the end.

    The result is the same, bit for bit on a CPU, however often the stage is interrupted and continued.
    """

    def __init__(
        self,
        name: str,
        algorithm: Algorithm,
        checkpoints: CheckpointStore,
        files: StageFiles,
        *,
        updates: int,
        snapshot: int,
        save_every_s: float = 60.0,
    ) -> None:
        """Prepare the stage, continuing from its newest checkpoint if there is one.

        Raises:
            ResumeError: if the checkpoint is damaged or was made with other settings or on another snapshot.
        """
        self.algorithm, self.checkpoints, self.files = algorithm, checkpoints, files
        self.updates = updates
        self.save_every_s = save_every_s
        self.progress = Progress(stage=name, update=0, snapshot=snapshot, policy_version=0, finished=False)
        found = checkpoints.latest()
        if found is not None:
            require_same_settings(found, files.config)
            if found.progress.snapshot != snapshot:
                raise ResumeError(
                    f"stage {name!r} was trained on snapshot {found.progress.snapshot}, the store is at {snapshot}: "
                    f"remove {checkpoints.directory} to train it on the new data"
                )
            algorithm.load_state(found.state())
            self.progress = found.progress

    @property
    def finished(self) -> bool:
        return self.progress.finished

    def run(
        self, batches: BatchSource, *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[UpdateResult]:
        """Yield each update's result; ends early, with a checkpoint, once `stop()` is true."""
        saved_at = time.monotonic()
        for result in train(self.algorithm, batches, start=self.progress.update, stop=self.updates):
            self.progress = replace(self.progress, update=result.update)
            yield result
            if stop():
                break
            if time.monotonic() - saved_at > self.save_every_s:
                self.save()
                saved_at = time.monotonic()
        self.progress = replace(self.progress, finished=self.progress.update >= self.updates)
        self.save()

    def save(self) -> Checkpoint:
        """Write a checkpoint of the present state."""
        return self.checkpoints.save(
            self.progress,
            policy=self.files.policy(),
            value=None if self.files.value is None else self.files.value(),
            state=self.algorithm.state(),
            config=self.files.config,
        )


def require_same_settings(found: Checkpoint, config: dict[str, Any]) -> None:
    """Refuse to continue a stage with settings that are not its own.

    Raises:
        ResumeError: naming the first setting that differs.
    """
    for field in sorted(found.config.keys() | config.keys()):
        before, now = found.config.get(field), config.get(field)
        if before != now:
            raise ResumeError(
                f"the stage was begun with {field} = {before!r}, now it is {now!r}: "
                f"use the old value, or remove {found.directory.parent} to begin again"
            )
