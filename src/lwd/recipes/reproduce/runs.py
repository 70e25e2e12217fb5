"""Cells on disk: the directory that a cell runs in, the verb that does its work, and the record it leaves.

A training cell's directory is an ordinary run. The store and the checkpoints of the stages before are hard links to
those of the cells that it starts from, so that cells can run side by side and never meet each other's fleet data.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lwd.data import durable
from lwd.errors import CheckpointError
from lwd.evaluation.experiment.records import CellRecord, Stage, TrainingRecord, task_episodes
from lwd.evaluation.experiment.training import training_record
from lwd.evaluation.results import load_result
from lwd.evaluation.run_data import read_run
from lwd.recipes.reproduce.cells import Cell, CellStage
from lwd.recipes.reproduce.registry import Registry
from lwd.recipes.reproduce.scale import EVALUATION_SEED, WORLD, Scale
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.verbs import link_tree
from lwd.robots.sim.embodiments import CONTROL_HZ

_VERBS = {"sft": "sft", "offline": "offline", "online": "up"}


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """What is known about a cell that was begun."""

    seconds: float = 0.0
    """Of all attempts."""
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class CellRuns:
    """The cells below one root."""

    root: Path
    scale: Scale
    registry: Registry
    workers: int
    """Processes of data generation and evaluation."""

    def directory(self, cell: Cell) -> Path:
        return self.root / cell.directory

    def attempts(self, cell: Cell) -> Attempts:
        path = self.directory(cell) / "cell.json"
        return Attempts(**json.loads(path.read_text())["attempts"]) if path.exists() else Attempts()

    def note(self, cell: Cell, attempts: Attempts) -> None:
        content = {"attempts": asdict(attempts), "key": cell.key, "inputs": cell.inputs}
        durable.replace(self.directory(cell) / "cell.json", json.dumps(content, indent=1, default=str).encode())

    def finished(self, cell: Cell) -> bool:
        """Whether a cell's work is done; its directory is there then."""
        return self.attempts(cell).finished

    def prepare(self, cell: Cell) -> None:
        """Make the cell's directory with what it starts from; nothing is done twice."""
        directory = self.directory(cell)
        durable.ensure_directory(directory)
        data = cell.ancestor("data")
        if cell.stage in _VERBS and data is not None:
            link_tree(self.directory(data) / "store", directory / "store")
        before: CellStage
        for before in ("sft", "offline"):
            ancestor = cell.ancestor(before)
            if cell.stage in _VERBS and ancestor is not None and ancestor is not cell:
                name = f"checkpoints/{before}"
                link_tree(self.directory(ancestor) / name, directory / name)

    def command(self, cell: Cell, level: float | None = None) -> tuple[str, ...]:
        """The verb and its options.

        Args:
            level: constant quantile level, of a method that has one.
        """
        run = ("--run", str(self.directory(cell)))
        budget, seed = ("--budget", self.scale.stages), ("--seed", str(cell.seed))
        device = ("--device", self.scale.device)
        if cell.stage == "data":
            return ("data", "generate", *run, *budget, "--workers", str(self.workers))
        if cell.stage == "sft":
            return ("sft", *run, *budget, *seed, *device, "--threads", "1")
        method = self.registry.options(cell.method)
        if cell.stage == "offline":
            constant = () if level is None else ("--quantile-level", repr(level))
            return ("offline", *run, *budget, *seed, *device, "--threads", "1", *method, *constant)
        if cell.stage == "online":
            fleet = ("--robots", str(cell.robots), "--env-steps", str(cell.env_steps), "--world", WORLD)
            return ("up", *run, *budget, *seed, *device, *fleet, *method)
        return (
            *("evaluate", str(self._policy(cell)), "--method", cell.method, "--out", str(self._result(cell))),
            *("--episodes", str(self.scale.episodes), "--seed", str(EVALUATION_SEED), "--world", WORLD),
            *("--workers", str(self.workers), "--tasks", *self.scale.tasks),
        )

    def require_done(self, cell: Cell) -> None:
        """Check that a verb left what it says.

        Raises:
            CheckpointError: if the stage's checkpoint is missing or unfinished.
            ConfigError: if an evaluation left no result.
        """
        if cell.stage in _VERBS:
            self._run(cell).finished(cell.stage, _VERBS[cell.stage])
        if cell.stage == "evaluate":
            load_result(self._result(cell))

    def record(self, cell: Cell, *, wall_s: float) -> CellRecord:
        """The record of a finished evaluation."""
        (training,) = cell.parents
        result = load_result(self._result(cell))
        return CellRecord(
            **_identity(cell),
            wall_s=round(wall_s, 1),
            tasks=task_episodes(result),
            training=self.training(training),
        )

    def failure(self, cell: Cell, error: str) -> CellRecord:
        """The record of an evaluation that cannot be made."""
        return CellRecord(**_identity(cell), wall_s=0.0, tasks={}, error=error)

    def run_of(self, evaluation: Cell) -> RunDirectory:
        """The run whose policy an evaluation is of."""
        return self._run(evaluation.parents[0])

    def training(self, cell: Cell) -> TrainingRecord:
        """What a finished training cell says about itself."""
        run = self._run(cell)
        return training_record(
            read_run(run.path),
            cell.stage,
            wall_s=self.attempts(cell).seconds,
            updates=run.finished(cell.stage, _VERBS[cell.stage]).progress.update,
        )

    def _policy(self, evaluation: Cell) -> Path:
        stage = evaluation.of
        if stage is None:
            raise CheckpointError(f"{evaluation.label} is no evaluation, so it has no policy to evaluate")
        return self.run_of(evaluation).finished(stage, _VERBS[stage]).policy_path

    def _run(self, cell: Cell) -> RunDirectory:
        return RunDirectory(self.directory(cell))

    def _result(self, evaluation: Cell) -> Path:
        return self.directory(evaluation) / "result.json"


def _identity(cell: Cell) -> dict[str, Any]:
    stage: Stage = cell.of or "sft"
    return {
        "key": cell.key,
        "name": cell.name,
        "method": cell.method,
        "stage": stage,
        "seed": cell.seed,
        "robots": cell.robots,
        "env_steps": cell.env_steps,
        "evaluation_seed": EVALUATION_SEED,
        "world": WORLD,
        "control_hz": CONTROL_HZ,
        "inputs": cell.inputs | {"training": cell.parents[0].inputs},
    }
