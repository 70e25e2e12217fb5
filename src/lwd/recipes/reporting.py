"""The report of a run, with value figures from its newest checkpoint."""

from pathlib import Path

from lwd.evaluation.report import write_report
from lwd.evaluation.run_data import RunData, read_run
from lwd.evaluation.svg import Drawing
from lwd.evaluation.value_episodes import episode_drawings
from lwd.learner.checkpoint import Checkpoint
from lwd.models.checkpoint import load_policy, load_value
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.run_record import RunRecord


def run_data(run: RunDirectory) -> RunData:
    """Read a run with its store, wherever that is.

    Raises:
        ConfigError: if `run` is no run directory.
        StoreError: if the store cannot be read.
    """
    elsewhere = RunRecord.load(run.path).store_config
    # Opening the store of a run that has none would make it.
    return read_run(run.path, run.store() if elsewhere is not None or (run.path / "store").is_dir() else None)


def report_run(run: RunDirectory, path: Path, *, film: bool = True) -> Path:
    """Write the report of a run.

    Args:
        film: draw the film strips of one success and one failure; rendering takes some seconds.
    Raises:
        ConfigError: if `run` is no run directory.
    """
    data = run_data(run)
    drawings: list[Drawing] = []
    checkpoint = newest_valued(run)
    if checkpoint is not None and data.fleet:
        value = load_value(checkpoint.value_path)
        # The figures are of distributions; a value that is a number has none.
        if value.config.num_atoms > 1:
            instructions = load_policy(checkpoint.policy_path).instructions
            drawings = episode_drawings(data, run.store(), value, instructions, frames=film)
    write_report(data, path, drawings)
    return path


VALUED_STAGES = ("online", "offline")
"""Stages whose checkpoints have value networks, the later one first."""


def newest_valued(run: RunDirectory) -> Checkpoint | None:
    """Return the last checkpoint that has a value network: of the online stage, else of the offline one."""
    for stage in VALUED_STAGES:
        found = run.checkpoints(stage).latest()
        if found is not None and found.value_path.exists():
            return found
    return None
