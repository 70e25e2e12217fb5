"""The online stage: follow the log, keep updates and data in proportion, publish, and continue exactly.

The replay changes only between two updates, and every change is written to a journal first: a learner that was
killed repeats the updates since its checkpoint on the very snapshots they were first computed on.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lwd.algos.protocol import Algorithm
from lwd.data.reader import ReplayReader
from lwd.errors import ResumeError
from lwd.learner.checkpoint import CheckpointStore, Progress
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.loop import BatchSource, UpdateResult
from lwd.learner.stage import StageFiles, require_same_settings

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
    """Which snapshot the replay was at, from which update on: one JSON line per change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines: list[tuple[int, int]] = []
        if path.exists():
            # A line that was cut by a crash belongs to a change that never took effect.
            complete = [line for line in path.read_text().split("\n")[:-1] if line]
            self._lines = [(row["update"], row["snapshot"]) for row in map(json.loads, complete)]
            path.write_text("".join(line + "\n" for line in complete))

    def add(self, update: int, snapshot: int) -> None:
        """Note that after `update` updates the replay moves to `snapshot`."""
        self._lines.append((update, snapshot))
        with self._path.open("a") as file:
            file.write(json.dumps({"update": update, "snapshot": snapshot}) + "\n")

    def after(self, update: int, snapshot: int) -> list[tuple[int, int]]:
        """Return the changes at or after `update` that lead beyond `snapshot`, in their order."""
        return [line for line in self._lines if line[0] >= update and line[1] > snapshot]


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
        found = checkpoints.latest()
        if found is None:
            reader.advance()
            self.journal.add(0, reader.version)
            self.progress = replace(self.progress, snapshot=reader.version)
        else:
            require_same_settings(found, files.config)
            reader.advance(up_to=found.progress.snapshot)
            if reader.version < found.progress.snapshot:
                raise ResumeError(
                    f"checkpoint {found.directory} was trained on snapshot {found.progress.snapshot}, the store's "
                    f"log ends at {reader.version}: point the learner at the store it was trained from"
                )
            algorithm.load_state(found.state())
            self.progress = found.progress
        self._repeat = self.journal.after(self.progress.update, self.progress.snapshot)

    @property
    def updates_allowed(self) -> int:
        """Updates that the data so far allows."""
        return self.limiter.updates_allowed(self.reader.env_steps)

    def run(self, *, stop: Callable[[], bool] = lambda: False) -> Iterator[UpdateResult | None]:
        """Yield each update's result, and None whenever the stage waits for data; saves before it ends."""
        begun = saved = time.monotonic()
        if self.progress.policy_version < 0:
            self._publish()
        while not stop() and not self._finished(time.monotonic() - begun):
            self._adopt()
            if not self._repeat and self.progress.update >= self.updates_allowed:
                time.sleep(0.05)
                self.blocked_s += 0.05
                yield None
                continue
            metrics = self.algorithm.update(self.batches.batch(self.progress.update))
            self.progress = replace(self.progress, update=self.progress.update + 1)
            if self.progress.update % self.limits.publish_every == 0:
                self._publish()
            yield UpdateResult(update=self.progress.update, metrics=metrics)
            if time.monotonic() - saved > self.limits.save_every_s:
                self.save()
                saved = time.monotonic()
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
                self.reader.advance(up_to=self._repeat.pop(0)[1])
        elif update % self.limits.adopt_every == 0 or update >= self.updates_allowed:
            before = self.reader.version
            self.reader.advance()
            if self.reader.version > before:
                self.journal.add(update, self.reader.version)
        self.progress = replace(self.progress, snapshot=self.reader.version)

    def _publish(self) -> None:
        version = self.publish(self.files.policy(), self.progress.update, self.progress.snapshot)
        self.progress = replace(self.progress, policy_version=version)
