"""Runs what is missing of a plan: verbs in processes, side by side where they fit, each finished cell kept at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lwd.errors import CheckpointError, LWDError
from lwd.evaluation.experiment.records import CellRecord, file_name, load_record
from lwd.recipes.reproduce.cells import Cell
from lwd.recipes.reproduce.durations import Durations
from lwd.recipes.reproduce.plan import Plan
from lwd.recipes.reproduce.processes import Start, VerbProcess, error_in, start_verb
from lwd.recipes.reproduce.runs import Attempts, CellRuns

_POLL_S = 0.5
_INTERRUPTED = 130
_LEVEL = "divl/quantile_level"
# A cell that fills an idle core may hold up the next one that needs all cores for this much of the running one's rest.
_FILL = 1.25


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where the experiment stands."""

    finished: int
    """Evaluation cells of the plan with a record."""
    planned: int
    running: tuple[tuple[str, float, float | None], ...]
    """Label, seconds so far, seconds expected."""
    left_s: float | None
    stopping: bool


@dataclass
class _Running:
    cell: Cell
    process: VerbProcess
    started_s: float
    before_s: float
    log: Path


class Engine:
    """The experiment on one machine. Create it and call `run` in the main thread."""

    def __init__(
        self,
        plan: Plan,
        runs: CellRuns,
        out: Path,
        *,
        jobs: int,
        retry_failed: bool = False,
        start: Start = start_verb,
        on_record: Callable[[Cell, CellRecord], None] = lambda cell, record: None,
        poll_s: float = _POLL_S,
    ) -> None:
        """
        Args:
            out: directory whose `cells/` holds the records.
            jobs: cores.
            retry_failed: run cells again whose record says that they failed.
            start: starts a verb's process.
            on_record: told of every new record, when it is on the disk.
        """
        self.plan, self.runs = plan, runs
        self._cells = out / "cells"
        self._jobs = jobs
        self._start, self._on_record, self._poll_s = start, on_record, poll_s
        self.records = {cell.key: record for cell in plan.cells if (record := self._load(cell)) is not None}
        if retry_failed:
            self.records = {key: record for key, record in self.records.items() if not record.failed}
        self.durations = Durations(plan.scale, self.records.values())
        self._errors: dict[str, str] = {
            key: record.error for key, record in self.records.items() if record.error is not None
        }
        self._running: list[_Running] = []
        self._done: set[str] = set()

    def todo(self) -> list[Cell]:
        """What has to be run, each cell after those that it starts from."""
        found: dict[str, Cell] = {}
        for cell in self.plan.cells:
            for needed in self._needed(cell):
                found.setdefault(needed.key, needed)
        return list(found.values())

    def run(self, *, stop: Callable[[], bool], watch: Callable[[Status], None] = lambda status: None) -> bool:
        """Run until everything is done or `stop()`; processes are then interrupted, and save what they have.

        Returns:
            Whether everything is done.
        Raises:
            ConfigError: if a record is damaged.
        """
        pending, stopping = self.todo(), False
        try:
            while True:
                wanted = stop()
                for item in list(self._running):
                    if (status := item.process.poll()) is not None:
                        wanted |= self._end(item, status, stopping)
                if wanted and not stopping:
                    stopping = True
                    for item in self._running:
                        item.process.interrupt()
                if not stopping:
                    pending = self._begin(pending)
                if not self._running and (stopping or not pending):
                    return not self.todo()
                watch(self._status(pending, stopping))
                time.sleep(self._poll_s)
        finally:
            for item in self._running:
                item.process.interrupt()
            for item in self._running:
                item.process.wait()

    def _load(self, cell: Cell) -> CellRecord | None:
        path = self._cells / file_name(cell.name, cell.key)
        return load_record(path) if path.exists() else None

    def _is_done(self, cell: Cell) -> bool:
        if cell.stage == "evaluate":
            return cell.key in self.records
        if cell.key not in self._done and self.runs.finished(cell):
            self._done.add(cell.key)
        return cell.key in self._done

    def _needed(self, cell: Cell) -> Iterator[Cell]:
        if not self._is_done(cell):
            for parent in cell.parents:
                yield from self._needed(parent)
            if cell.level_from is not None and self._record_of(cell.level_from) is None:
                yield from self._needed(cell.level_from)
            yield cell

    def _record_of(self, training: Cell) -> CellRecord | None:
        """The record of a training cell's evaluation: as good as its run, where only its numbers matter."""
        found = (self.records.get(cell.key) for cell in self.plan.cells if cell.parents[0].key == training.key)
        return next((record for record in found if record is not None and not record.failed), None)

    def _can_start(self, cell: Cell) -> bool:
        level = cell.level_from
        return all(map(self._is_done, cell.parents)) and (
            level is None or self._is_done(level) or self._record_of(level) is not None
        )

    def _level(self, cell: Cell) -> float | None:
        """The constant quantile level of a cell that has one: the mean of the run that it takes it from.

        Raises:
            CheckpointError: if that run recorded no level.
        """
        if cell.level_from is None:
            return None
        record = self._record_of(cell.level_from)
        training = self.runs.training(cell.level_from) if record is None else record.training
        level = None if training is None else training.means.get(_LEVEL)
        if level is None:
            raise CheckpointError(f"{cell.level_from.name} recorded no {_LEVEL}: run it for at least 50 updates")
        return level

    def _begin(self, pending: Sequence[Cell]) -> list[Cell]:
        """Start what fits; return what is left to start."""
        left = self._without_hopeless(pending)
        while (cell := self._next(left)) is not None:
            left.remove(cell)
            try:
                self._launch(cell)
            except LWDError as error:
                self._fail(cell, f"{cell.label}: {error}")
                left = self._without_hopeless(left)
        return left

    def _without_hopeless(self, pending: Sequence[Cell]) -> list[Cell]:
        """Give up cells that start from one that failed."""
        left = []
        for cell in pending:
            error = next((self._errors[parent.key] for parent in cell.needs if parent.key in self._errors), None)
            if error is None:
                left.append(cell)
            else:
                self._fail(cell, error)
        return left

    def _next(self, pending: Sequence[Cell]) -> Cell | None:
        """The first cell in the plan's order that can start now."""
        ready = [cell for cell in pending if self._can_start(cell)]
        if not ready or not self._running:
            return ready[0] if ready else None
        if len(self._running) >= self._jobs or any(item.cell.cores == "all" for item in self._running):
            return None
        if ready[0].cores == "one":
            return ready[0]
        # The next one needs all cores: meanwhile only what ends about when the running ones do.
        rests = [rest for item in self._running if (rest := self._rest_s(item)) is not None]
        for cell in ready:
            expected = self.durations.estimate_s(cell)
            if cell.cores == "one" and expected is not None and rests and expected <= _FILL * max(rests):
                return cell
        return None

    def _rest_s(self, item: _Running) -> float | None:
        expected = self.durations.estimate_s(item.cell)
        spent = item.before_s + time.monotonic() - item.started_s
        return None if expected is None else max(0.0, expected - spent)

    def _launch(self, cell: Cell) -> None:
        level = self._level(cell)
        self.runs.prepare(cell)
        log = self.runs.directory(cell) / "log.txt"
        before_s = self.runs.attempts(cell).seconds
        process = self._start(self.runs.command(cell, level), log)
        self._running.append(
            _Running(cell=cell, process=process, started_s=time.monotonic(), before_s=before_s, log=log)
        )

    def _end(self, item: _Running, status: int, stopping: bool) -> bool:
        """Deal with an ended process; return whether it was interrupted."""
        self._running.remove(item)
        cell = item.cell
        seconds = item.before_s + time.monotonic() - item.started_s
        if status == _INTERRUPTED or (stopping and status != 0):
            self.runs.note(cell, Attempts(seconds=seconds))
            return True
        if status != 0:
            self.runs.note(cell, Attempts(seconds=seconds))
            self._fail(cell, f"{cell.label}: {error_in(item.log, status)}")
            return False
        try:
            self.runs.require_done(cell)
            self.runs.note(cell, Attempts(seconds=seconds, finished=True))
            self.durations.note(cell, seconds)
            if cell.stage == "evaluate":
                self._keep(cell, self.runs.record(cell, wall_s=seconds))
        except LWDError as error:
            self._fail(cell, f"{cell.label}: {error}")
        return False

    def _fail(self, cell: Cell, error: str) -> None:
        # Records are shared: what they say must not depend on where this machine has its runs.
        error = error.replace(str(self.runs.root.absolute()), "ROOT").replace(str(self.runs.root), "ROOT")
        self._errors[cell.key] = error
        if cell.stage == "evaluate":
            self._keep(cell, self.runs.failure(cell, error))

    def _keep(self, cell: Cell, record: CellRecord) -> None:
        record.save(self._cells)
        self.records[cell.key] = record
        self._on_record(cell, record)

    def _status(self, pending: Sequence[Cell], stopping: bool) -> Status:
        now_s = time.monotonic()
        rest = self.durations.total_s(pending, self._jobs)
        running = [self._rest_s(item) for item in self._running]
        known = [value for value in running if value is not None]
        return Status(
            finished=len(self.records),
            planned=len(self.plan.cells),
            running=tuple(
                (item.cell.label, item.before_s + now_s - item.started_s, self.durations.estimate_s(item.cell))
                for item in self._running
            ),
            left_s=None if rest is None or len(known) < len(running) else rest + max(known, default=0.0),
            stopping=stopping,
        )
