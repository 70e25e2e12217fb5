"""Evaluations of a run's checkpoints, each into `eval/<method>.json`."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from lwd.errors import CheckpointError, ConfigError
from lwd.evaluation.results import EvaluationResult
from lwd.evaluation.rollouts import evaluate_policy
from lwd.learner.checkpoint import POLICY
from lwd.models.checkpoint import load_policy, require_embodiment
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.sim import TASKS, make_robot, task_named

STAGE_OF_METHOD = {
    "sft": "sft",
    "lwd_offline": "offline",
    "lwd_online": "online",
    "filtered_bc": "filtered_bc",
}


def policy_of(path: Path, method: str | None) -> tuple[Path, Path, str]:
    """Find what to evaluate: (policy file, directory for the result, method name).

    Raises:
        CheckpointError: if there is no policy at the path.
        ConfigError: if the path is a run and the method is not one of its stages.
    """
    if path.is_file():
        return path, path.parent, method or path.stem
    if (path / POLICY).is_file():
        return path / POLICY, path, method or path.parent.name
    if not (path / "checkpoints").is_dir():
        raise CheckpointError(f"there is no policy at {path}: give a policy file, a checkpoint or a run directory")
    if method not in STAGE_OF_METHOD:
        raise ConfigError(f"--method is {method!r}; of a run, evaluate one of: {', '.join(STAGE_OF_METHOD)}")
    stage = STAGE_OF_METHOD[method]
    found = RunDirectory(path).finished(stage, {"online": "up", "filtered_bc": "filtered-bc"}.get(stage, stage))
    return found.policy_path, path / "eval", method


def evaluate_checkpoint(
    policy: Path,
    target: Path,
    *,
    method: str,
    episodes_per_task: int,
    tasks: Sequence[str] = (),
    world: str = "nominal",
    seed: int = 0,
    heldout_instructions: bool = True,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate a policy file and write the result to `target`.

    Raises:
        CheckpointError: if the file is no policy, or one of another embodiment.
        UnknownTask: if a task does not exist.
        ConfigError: if `target` has episodes of another policy or world.
    """
    trained = load_policy(policy)
    with closing(make_robot(trained.embodiment.name, world)) as robot:
        require_embodiment(trained, robot.embodiment)
    result = evaluate_policy(
        policy,
        [task_named(name) for name in tasks or TASKS],
        method=method,
        journal_path=target.with_suffix(".jsonl"),
        episodes_per_task=episodes_per_task,
        seed=seed,
        world=world,
        workers=workers,
        heldout_instructions=heldout_instructions,
        progress=None if progress is None else lambda _, done, total: progress(done, total),
    )
    result.save(target)
    return result
