"""The online stage: follow the log, keep updates and data in proportion, publish, and continue exactly.

The replay changes only between two updates, and every look at the log is written to a journal before the next
update: a learner that was killed repeats the updates since its checkpoint on the very snapshots they were first
computed on, so every policy that it had published can be computed again.

Several processes train as one: all are on the same snapshot in every update, rank 0 alone keeps journal and checkpoints
and publishes, and what comes next is decided together (`lwd.learner.parallel`).

A store that does not answer delays what needs it, and nothing else: training goes on with the snapshot at hand, and a
policy that could not be published is tried again with the same bytes. Only an outage of `outage_s` ends the stage, with
a checkpoint.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from lwd.algos.protocol import Algorithm
from lwd.data import durable
from lwd.data.outage import Outage
from lwd.data.reader import ReplayReader
from lwd.errors import ResumeError, ServiceError, StoreError
from lwd.learner.checkpoint import CheckpointStore, Progress
from lwd.learner.limiter import Limiter
from lwd.learner.loop import BatchSource, UpdateResult
from lwd.learner.parallel import ALONE, Group
from lwd.learner.publication import Publication, Publish
from lwd.learner.replicas import Start, common_start, require_same_weights, state_of_all
from lwd.learner.stage import StageFiles, naming_last_good, require_same_settings

_OTHER_LOG = (
    "mount or restore the store it was trained from; to go on with an older copy, see `lwd data verify --run RUN "
    "--accept-restored`"
)


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
    outage_s: float = 1800.0
    """How long the store may fail before the stage ends with an error."""


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
        self.sha256: dict[int, str] = {}
        """Hash of the log entry of every snapshot that was looked at; earlier versions noted none."""
        durable.ensure_directory(path.parent)
        if not path.exists():
            return
        content = path.read_bytes()
        # A last line that a crash has cut belongs to a look after which no update was done.
        complete = content[: content.rfind(b"\n") + 1]
        try:
            rows = [json.loads(line) for line in complete.splitlines()]
            self._lines = [(int(row["update"]), int(row["snapshot"])) for row in rows]
            self.sha256 = {int(row["snapshot"]): str(row["sha256"]) for row in rows if "sha256" in row}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ResumeError(
                f"{path} is damaged ({type(error).__name__}), so the updates since the last checkpoint cannot be "
                "repeated exactly: remove it to continue from the checkpoint on the newest data"
            ) from error
        if complete != content:
            durable.replace(path, complete)

    @property
    def first(self) -> int | None:
        """The snapshot that the stage began on; None in an empty journal."""
        return self._lines[0][1] if self._lines else None

    def add(self, update: int, snapshot: int, sha256: str = "") -> None:
        """Note that after `update` updates the log was looked at, and the replay moved to `snapshot`."""
        if self._lines and self._lines[-1] == (update, snapshot):
            return  # a stage that waits for data looks again and again
        with self._path.open("a") as file:
            file.write(json.dumps({"update": update, "snapshot": snapshot, "sha256": sha256}) + "\n")
        self.sha256[snapshot] = sha256
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
        limiter: Limiter,
        limits: OnlineLimits,
        group: Group = ALONE,
    ) -> None:
        """Prepare the stage, continuing from its newest checkpoint if there is one.

        Args:
            batches: of this process; in a group each draws with another seed.
            checkpoints: of rank 0; the others' are not looked at.
            group: the processes that train as one.
        Raises:
            ResumeError: if the checkpoint is damaged, was made with other settings or by another number of processes,
                or the log is behind it.
            ConfigError: if the processes of the group do not begin alike.
            ServiceError: if one of them does not answer.
        """
        self.algorithm, self.batches, self.reader = algorithm, batches, reader
        self.checkpoints, self.files, self.publish = checkpoints, files, publish
        self.limiter, self.limits, self.group = limiter, limits, group
        self.journal = SnapshotJournal(checkpoints.directory / "snapshots.jsonl") if group.leads else None
        self.blocked_s = 0.0
        """Time spent waiting for data."""
        self._publication = Publication(files.published or files.policy, publish, most_s=limits.outage_s)
        self._reading = Outage("the log cannot be read", "training goes on with what is here", most_s=limits.outage_s)
        self._behind = False
        """Whether a process has not come to the snapshot that the journal names for the next update."""
        self._target: int | None = None
        """Snapshot that all processes of a group prepare."""
        settings = f"{files.config} {limits} {limiter}"
        start = common_start(group, self._start if group.leads else None, settings)
        self.progress, self._repeat = start.progress, start.repeat
        self._known_sha256 = {} if self.journal is None else dict(self.journal.sha256)
        if self.progress.snapshot_sha256:
            self._known_sha256[self.progress.snapshot] = self.progress.snapshot_sha256
        self._advance(self.progress.snapshot)
        if start.state is not None:
            algorithm.load_state(start.state)
        group.meet()  # they had different amounts to download
        require_same_weights(group, algorithm)
        if self.journal is not None and self.journal.first is None:
            self.journal.add(self.progress.update, reader.version, reader.sha256)

    @property
    def updates_allowed(self) -> int:
        """Updates that the data so far allows."""
        return self.limiter.updates_allowed(self.reader.env_steps)

    def run(self, *, stop: Callable[[], bool] = lambda: False) -> Iterator[UpdateResult | None]:
        """Yield each update's result, and None whenever the stage waits for data; saves before it ends.

        Raises:
            NonFiniteLoss: if training diverged; names the last good checkpoint.
            ServiceError: if another process of the group ended or does not answer.
            StoreError: if the store failed for `outage_s`; a checkpoint is saved.
            LeaseTaken: if another learner publishes to the store.
        """
        begun = saved = time.monotonic()
        limit_s = sys.float_info.max if self.limits.max_seconds is None else self.limits.max_seconds
        if self.progress.finished and (self._used_up() or limit_s <= 0):
            return
        if self.progress.policy_version < 0:
            self._publish(due=True)
        while True:
            stopped, over, lost = self.group.any(stop(), time.monotonic() - begun >= limit_s, self._lost is not None)
            if stopped or over or lost or self._used_up():
                break
            self._publish()
            if not self._adopt() or (not self._repeat and self.progress.update >= self.updates_allowed):
                time.sleep(0.05)
                self.blocked_s += 0.05
                yield None
                continue
            with naming_last_good(self.checkpoints) if self.group.leads else nullcontext():
                metrics = self.algorithm.update(self.batches.batch(self.progress.update))
            metrics = self.group.means(metrics)
            self.progress = replace(self.progress, update=self.progress.update + 1)
            if self.progress.update % self.limits.publish_every == 0:
                self._publish(due=True)
            yield UpdateResult(update=self.progress.update, metrics=metrics)
            if self.group.any(time.monotonic() - saved > self.limits.save_every_s)[0]:
                self.save()
                saved = time.monotonic()
        if self._publication.update != self.progress.update:
            self._publish(due=True)
        while not stopped and not lost and self.group.any(self._publication.waiting)[0]:
            # The stage's last policy is its result: it is worth waiting for.
            time.sleep(0.05)
            yield None
            self._publish()
            stopped, lost = self.group.any(stop(), self._lost is not None)
        complete = (over or self._used_up()) and not self._publication.waiting
        self.progress = replace(self.progress, finished=complete)
        self.save()
        if lost:
            raise self._lost or ServiceError("another process of the group lost the store: see its output")

    def save(self) -> None:
        """Write a checkpoint of the present state, every process's random generator included.

        Raises:
            CheckpointError: if the processes of the group do not hold the same weights any more; nothing is saved.
            StoreError: if the disk is full.
        """
        require_same_weights(self.group, self.algorithm)
        state = state_of_all(self.group, self.algorithm)
        if not self.group.leads:
            return
        self.checkpoints.save(
            self.progress,
            policy=self.files.policy(),
            value=None if self.files.value is None else self.files.value(),
            state=state,
            config=self.files.config,
        )

    def _start(self) -> Start:
        """Where the stage begins or continues, from rank 0's files."""
        assert self.journal is not None
        found = self.checkpoints.latest()
        if found is None:
            # A stage that was killed before its first checkpoint begins on the same snapshot again.
            first = self.reader.newest() if self.journal.first is None else self.journal.first
            progress = Progress(
                stage="online", update=0, snapshot=first, policy_version=-1, finished=False, processes=self.group.size
            )
        else:
            require_same_settings(found, self.files.config)
            progress = found.progress
            if progress.processes != self.group.size:
                raise ResumeError(
                    f"the stage was begun with {progress.processes} learner processes, now there are "
                    f"{self.group.size}: start {progress.processes}, or remove {self.checkpoints.directory} to begin "
                    "again"
                )
        return Start(
            progress=progress,
            repeat=self.journal.after(progress.update, progress.snapshot),
            state_file=None if found is None else found.state_file(),
        )

    def _used_up(self) -> bool:
        """Whether the updates that the stage's fleet steps allow are done."""
        limits = self.limits
        if limits.max_env_steps is None or self.reader.env_steps < limits.max_env_steps:
            return False
        return self.progress.update >= self.limiter.updates_allowed(limits.max_env_steps)

    def _adopt(self) -> bool:
        """Bring the replay to where the next update needs it. Returns whether it is there, in every process."""
        update = self.progress.update
        if self._repeat or self._behind:
            self._behind = not self.group.minima(self._repeat_looks(update))[0]
            if self._behind:
                return False
        elif update % self.limits.adopt_every == 0 or update >= self.updates_allowed:
            self._look()
            if self.journal is not None:
                self.journal.add(update, self.reader.version, self.reader.sha256)
        self.progress = replace(self.progress, snapshot=self.reader.version, snapshot_sha256=self.reader.sha256)
        return True

    def _repeat_looks(self, update: int) -> bool:
        """Bring the replay to where it was when this update was first computed. Returns whether it could."""
        while self._repeat and self._repeat[0][0] == update:
            if not self._reading.due:
                return False
            try:
                self._advance(self._repeat[0][1])
            except StoreError as error:
                self._reading.failed(error)
                return False
            self._reading.succeeded()
            self._repeat.pop(0)
        return True

    def _look(self) -> None:
        """Bring the replay to what the log has; a store that fails leaves it as it is.

        A group changes together, once every process has the episodes. Rank 0 says which version is next and all
        download it in the background, while they train on the present one: the slowest download delays the change, but
        no update.
        """
        if self.group.size == 1:
            self._try_to_read(lambda: self._advance(None))
            return
        if self._target is not None:
            ready, well = self.group.minima(self.reader.prepared, self.reader.prepared_well)
            if well:
                self.reader.adopt()
                self._target = None
                self._reading.succeeded()
            elif ready and not self.reader.prepared_well and self._reading.due:
                # The others keep what they have: this process tries the same version again.
                self._try_to_read(self.reader.adopt)
                self.reader.prepare(self._target)
        if self._target is None:
            newest = sys.maxsize
            if self.group.leads:
                self._try_to_read(self.reader.newest)
                newest = self.reader.log.version
            (target,) = self.group.minima(newest)
            if target > self.reader.version:
                self._target = target
                self.reader.prepare(target)

    def _try_to_read(self, read: Callable[[], object]) -> None:
        if not self._reading.due:
            return
        try:
            read()
        except StoreError as error:
            self._reading.failed(error)
        else:
            self._reading.succeeded()

    def _advance(self, snapshot: int | None) -> None:
        """Bring the replay to a snapshot that the stage has seen before, or to the newest one."""
        self.reader.advance(snapshot)
        if snapshot is None:
            return
        if self.reader.version < snapshot:
            raise ResumeError(
                f"the stage in {self.checkpoints.directory} was trained on snapshot {snapshot}, the store's log ends "
                f"at {self.reader.version}: {_OTHER_LOG}"
            )
        if (known := self._known_sha256.get(snapshot)) and known != self.reader.sha256:
            raise ResumeError(
                f"the stage in {self.checkpoints.directory} was trained on another snapshot {snapshot} (its log entry "
                f"had sha256 {known[:12]}, in the store it has {self.reader.sha256[:12]}): {_OTHER_LOG}"
            )

    def _publish(self, *, due: bool = False) -> None:
        """Publish the present policy if it is due, and what could not be published before."""
        if not self.group.leads:
            self._publication.update = self.progress.update
        elif (version := self._publication.step(self.progress, due=due)) is not None:
            self.progress = replace(self.progress, policy_version=version)

    @property
    def _lost(self) -> StoreError | None:
        """Why the stage must end: the store has failed for too long."""
        return self._reading.lost or self._publication.outage.lost
