"""The online stage: follow the log, keep updates and data in proportion, publish, and continue exactly.

The replay changes only between two updates, and every look at the log is written to a journal before the next
update: a learner that was killed repeats the updates since its checkpoint on the very snapshots they were first
computed on, so every policy that it had published can be computed again.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lwd.algos.protocol import Algorithm
from lwd.data import durable
from lwd.data.reader import ReplayReader
from lwd.errors import ResumeError
from lwd.learner.checkpoint import CheckpointStore, Progress
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.loop import BatchSource, UpdateResult
from lwd.learner.stage import StageFiles, naming_last_good, require_same_settings

Publish = Callable[[bytes, int, int], int]
"""(policy bytes, update, snapshot) -> version of the published policy."""


@dataclass(frozen=True, kw_only=True)
class OnlineLimits:
    """When the stage publishes, looks at the log, saves and ends."""

    publish_every: int = 50
    """Updates between two published policies (method.md section 4)."""
    adopt_every: int = 10
    """Updates between two looks at the commit log."""
    save_every_s: float = 60.0
    max_env_steps: int | None = None
    """The stage ends once the updates that this many fleet steps allow are done."""
    max_seconds: float | None = None
    """The stage ends after so much time, whatever was done."""


class SnapshotJournal:
    """Which snapshot the replay was at, from which update on: one JSON line per look at the log.

    Looks that found nothing new are lines, too: a repeated update must not find more than it did at first.
    """

    def __init__(self, path: Path) -> None:
        """Read the journal, if there is one.

        Raises:
            ResumeError: if a line is damaged.
        """
        self._path = path
        self._lines: list[tuple[int, int]] = []
        durable.ensure_directory(path.parent)
        if not path.exists():
            return
        content = path.read_bytes()
        # A last line that a crash has cut belongs to a look after which no update was done.
        complete = content[: content.rfind(b"\n") + 1]
        try:
            self._lines = [(row["update"], row["snapshot"]) for row in map(json.loads, complete.splitlines())]
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(
                f"{path} is damaged ({error!r}), so the updates since the last checkpoint cannot be repeated "
                "exactly: remove it to continue from the checkpoint on the newest data"
            ) from error
        if complete != content:
            durable.replace(path, complete)

    @property
    def first(self) -> int | None:
        """The snapshot that the stage began on; None in an empty journal."""
        return self._lines[0][1] if self._lines else None

    def add(self, update: int, snapshot: int) -> None:
        """Note that after `update` updates the log was looked at, and the replay moved to `snapshot`."""
        if self._lines and self._lines[-1] == (update, snapshot):
            return  # a stage that waits for data looks again and again
        with self._path.open("a") as file:
            file.write(json.dumps({"update": update, "snapshot": snapshot}) + "\n")
        self._lines.append((update, snapshot))

    def after(self, update: int, snapshot: int) -> list[tuple[int, int]]:
        """Return the looks of a stage that has done `update` updates and is at `snapshot`, in their order."""
        return [(at, to) for at, to in self._lines if at >= update and to >= snapshot]


class OnlineStage:
    """Trains while the fleet's episodes arrive."""

    def __init__(
        self,
        algorithm: Algorithm,
        batches: BatchSource,
        reader: ReplayReader,
        checkpoints: CheckpointStore,
        files: StageFiles,
        publish: Publish,
        *,
        limiter: UpdateToDataLimiter,
        limits: OnlineLimits,
    ) -> None:
        """Prepare the stage, continuing from its newest checkpoint if there is one.

        Raises:
            ResumeError: if the checkpoint is damaged, was made with other settings, or the log is behind it.
        """
        self.algorithm, self.batches, self.reader = algorithm, batches, reader
        self.checkpoints, self.files, self.publish = checkpoints, files, publish
        self.limiter, self.limits = limiter, limits
        self.journal = SnapshotJournal(checkpoints.directory / "snapshots.jsonl")
        self.progress = Progress(stage="online", update=0, snapshot=0, policy_version=-1, finished=False)
        self.blocked_s = 0.0
        """Time spent waiting for data."""
        self._published_update = -1
        found = checkpoints.latest()
        if found is None:
            # A stage that was killed before its first checkpoint begins on the same snapshot again.
            self._advance(self.journal.first)
            if self.journal.first is None:
                self.journal.add(0, reader.version)
            self.progress = replace(self.progress, snapshot=reader.version)
        else:
            require_same_settings(found, files.config)
            self._advance(found.progress.snapshot)
            algorithm.load_state(found.state())
            self.progress = found.progress
        self._repeat = self.journal.after(self.progress.update, self.progress.snapshot)

    @property
    def updates_allowed(self) -> int:
        """Updates that the data so far allows."""
        return self.limiter.updates_allowed(self.reader.env_steps)

    def run(self, *, stop: Callable[[], bool] = lambda: False) -> Iterator[UpdateResult | None]:
        """Yield each update's result, and None whenever the stage waits for data; saves before it ends.

        Raises:
            NonFiniteLoss: if training diverged; names the last good checkpoint.
        """
        begun = saved = time.monotonic()
        if self.progress.finished and self._finished(0.0):
            return
        if self.progress.policy_version < 0:
            self._publish()
        while not stop() and not self._finished(time.monotonic() - begun):
            self._adopt()
            if not self._repeat and self.progress.update >= self.updates_allowed:
                time.sleep(0.05)
                self.blocked_s += 0.05
                yield None
                continue
            with naming_last_good(self.checkpoints):
                metrics = self.algorithm.update(self.batches.batch(self.progress.update))
            self.progress = replace(self.progress, update=self.progress.update + 1)
            if self.progress.update % self.limits.publish_every == 0:
                self._publish()
            yield UpdateResult(update=self.progress.update, metrics=metrics)
            if time.monotonic() - saved > self.limits.save_every_s:
                self.save()
                saved = time.monotonic()
        if self._published_update != self.progress.update:
            self._publish()
        self.progress = replace(self.progress, finished=self._finished(time.monotonic() - begun))
        self.save()

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        self.checkpoints.save(
            self.progress,
            policy=self.files.policy(),
            value=None if self.files.value is None else self.files.value(),
            state=self.algorithm.state(),
            config=self.files.config,
        )

    def _finished(self, elapsed_s: float) -> bool:
        limits = self.limits
        if limits.max_seconds is not None and elapsed_s >= limits.max_seconds:
            return True
        if limits.max_env_steps is None or self.reader.env_steps < limits.max_env_steps:
            return False
        return self.progress.update >= self.limiter.updates_allowed(limits.max_env_steps)

    def _adopt(self) -> None:
        update = self.progress.update
        if self._repeat:
            while self._repeat and self._repeat[0][0] == update:
                self._advance(self._repeat.pop(0)[1])
        elif update % self.limits.adopt_every == 0 or update >= self.updates_allowed:
            self._advance(None)
            self.journal.add(update, self.reader.version)
        self.progress = replace(self.progress, snapshot=self.reader.version)

    def _advance(self, snapshot: int | None) -> None:
        """Bring the replay to a snapshot that the stage has seen before, or to the newest one."""
        self.reader.advance(snapshot)
        if snapshot is not None and self.reader.version < snapshot:
            raise ResumeError(
                f"the stage in {self.checkpoints.directory} was trained on snapshot {snapshot}, the store's log ends "
                f"at {self.reader.version}: point the learner at the store it was trained from"
            )

    def _publish(self) -> None:
        version = self.publish(self.files.policy(), self.progress.update, self.progress.snapshot)
        self.progress = replace(self.progress, policy_version=version)
        self._published_update = self.progress.update
