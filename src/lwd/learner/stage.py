"""One stage of training on a fixed snapshot, from where it was interrupted to its end."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lwd.algos.protocol import Algorithm
from lwd.errors import NonFiniteLoss, ResumeError
from lwd.learner.checkpoint import Checkpoint, CheckpointStore, Progress
from lwd.learner.loop import BatchSource, UpdateResult, train


@dataclass(frozen=True, kw_only=True)
class StageFiles:
    """What a stage writes into its checkpoints beside the algorithm's state."""

    policy: Callable[[], bytes]
    value: Callable[[], bytes] | None
    config: dict[str, Any]
    published: Callable[[], bytes] | None = None
    """The policy as robots get it; None: as in the checkpoint."""


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

    def run(self, batches: BatchSource, *, stop: Callable[[], bool] = lambda: False) -> Iterator[UpdateResult]:
        """Yield each update's result; ends early, with a checkpoint, once `stop()` is true.

        Raises:
            NonFiniteLoss: if training diverged; names the last good checkpoint.
        """
        saved_at = time.monotonic()
        with naming_last_good(self.checkpoints):
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


@contextmanager
def naming_last_good(checkpoints: CheckpointStore) -> Iterator[None]:
    """Add to a NonFiniteLoss where the last good state is."""
    try:
        yield
    except NonFiniteLoss as error:
        found = checkpoints.latest()
        kept = (
            "no checkpoint was saved before"
            if found is None
            else f"the last good checkpoint is {found.directory}; the same settings lead from there to the same failure"
        )
        raise NonFiniteLoss(
            f"{error}; {kept}: to train with other settings, remove {checkpoints.directory} and begin the stage again"
        ) from error


def require_same_settings(found: Checkpoint, config: dict[str, Any]) -> None:
    """Refuse to continue a stage, or to take its result for done, with settings that are not its own.

    Raises:
        ResumeError: naming the first setting that differs.
    """
    # As the manifest holds it: tuples are lists there.
    before, now = _flat(found.config), _flat(json.loads(json.dumps(config)))
    for field in sorted(before.keys() | now.keys()):
        if before.get(field) != now.get(field):
            raise ResumeError(
                f"the stage was begun with {field} = {before.get(field)!r}, now it is {now.get(field)!r}: "
                f"use the old value, or remove {found.directory.parent} to begin again"
            )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
