"""The report of a run, with value figures from its newest checkpoint."""

from pathlib import Path

from lwd.evaluation.report import write_report
from lwd.evaluation.run_data import read_run
from lwd.evaluation.svg import Drawing
from lwd.evaluation.value_episodes import episode_drawings
from lwd.learner.checkpoint import Checkpoint
from lwd.models.checkpoint import load_policy, load_value
from lwd.recipes.run_directory import RunDirectory


def report_run(run: Path, path: Path, *, film: bool = True) -> Path:
    """Write the report of a run.

    Args:
        film: draw the film strips of one success and one failure; rendering takes some seconds.
    Raises:
        ConfigError: if `run` is no run directory.
    """
    data = read_run(run)
    drawings: list[Drawing] = []
    checkpoint = _newest(RunDirectory(run))
    if checkpoint is not None and data.fleet:
        drawings = episode_drawings(
            data,
            RunDirectory(run).store(),
            load_value(checkpoint.value_path),
            load_policy(checkpoint.policy_path).instructions,
            frames=film,
        )
    write_report(data, path, drawings)
    return path


def _newest(run: RunDirectory) -> Checkpoint | None:
    """Return the last checkpoint that has a value network: of the online stage, else of the offline one."""
    for stage in ("online", "offline"):
        found = run.checkpoints(stage).latest()
        if found is not None and found.value_path.exists():
            return found
    return None
