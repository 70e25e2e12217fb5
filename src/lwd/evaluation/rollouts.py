"""Evaluate a policy under fixed seeds.

The seed of an episode depends only on the base seed, the task and the episode's index, never on the method,
so two methods meet the same starts and can be compared pair by pair. Evaluation seeds start at 2^32;
training seeds stay below. Neither the number of workers nor what shares a batch changes a result (see
lockstep.py).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from lwd.errors import ConfigError
from lwd.evaluation.lockstep import PolicyFactory, Trial, build_policy, open_robots, roll_out
from lwd.evaluation.results import (
    EpisodeResult,
    EvaluationHeader,
    EvaluationJournal,
    EvaluationResult,
    summarise,
)
from lwd.evaluation.workers import run_in_processes
from lwd.types import Task

EVALUATION_SEED_START = 2**32
"""Training seeds stay below; evaluation seeds lie in [2^32, 2^33)."""

Progress = Callable[[EpisodeResult, int, int], None]
"""Called with the finished episode, how many are done and how many there are."""


def evaluation_seed(task: str, index: int, base_seed: int) -> int:
    """Return the seed of an evaluation episode, in [2^32, 2^33)."""
    digest = hashlib.sha256(f"{base_seed}/{task}/{index}".encode()).digest()
    return EVALUATION_SEED_START + int.from_bytes(digest[:4], "big") % EVALUATION_SEED_START


def plan_trials(
    tasks: Sequence[Task], episodes_per_task: int, base_seed: int, *, heldout_instructions: bool
) -> list[Trial]:
    """Return every episode of an evaluation, long tasks first, so that no worker starts one at the end."""
    trials = [
        Trial(
            task=task,
            index=index,
            seed=evaluation_seed(task.name, index, base_seed),
            instruction=instructions[index % len(instructions)],
        )
        for task in tasks
        for instructions in [task.heldout_instructions if heldout_instructions else task.instructions]
        for index in range(episodes_per_task)
    ]
    return sorted(trials, key=lambda trial: -trial.task.time_limit)


def evaluate_policy(
    policy: Path | PolicyFactory,
    tasks: Sequence[Task],
    *,
    method: str,
    journal_path: Path,
    episodes_per_task: int = 25,
    seed: int = 0,
    world: str = "nominal",
    workers: int = 2,
    robots_per_worker: int = 12,
    heldout_instructions: bool = True,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Roll a policy out on every task under fixed seeds.

    Args:
        policy: a checkpoint file, or a function that builds the policy (picklable if workers > 0).
        method: the name under which reports show it, such as "lwd_online".
        journal_path: JSON-lines file of finished episodes; what it already holds is not run again.
        seed: the base seed; use the same for every method that you compare.
        world: name of the world the robots stand in.
        workers: processes; 0 rolls out in this process.
        robots_per_worker: simulated robots that share one batched call of the policy; another number rounds
            differently (1e-8), so results are bit for bit the same only for the same number.
        progress: called after every finished episode.
    Raises:
        ConfigError: if an argument is out of range or the journal belongs to another evaluation.
        ServiceError: if a worker fails; finished episodes are kept, and the next call goes on from there.
    """
    _check(tasks, episodes_per_task, workers, robots_per_worker)
    header = EvaluationHeader(
        method=method,
        checkpoint=_fingerprint(policy),
        world=world,
        base_seed=seed,
        heldout_instructions=heldout_instructions,
    )
    journal = EvaluationJournal(journal_path, header)
    trials = plan_trials(tasks, episodes_per_task, seed, heldout_instructions=heldout_instructions)
    wanted = {(trial.task.name, trial.index) for trial in trials}
    done = {(episode.task, episode.index) for episode in journal.episodes} & wanted
    missing = [trial for trial in trials if (trial.task.name, trial.index) not in done]
    for finished in _run(policy, missing, world, workers, robots_per_worker):
        journal.append(finished)
        done.add((finished.task, finished.index))
        if progress is not None:
            progress(finished, len(done), len(trials))
    episodes = sorted(
        (episode for episode in journal.episodes if (episode.task, episode.index) in wanted),
        key=lambda episode: (episode.task, episode.index),
    )
    return EvaluationResult(
        **asdict(header),
        episodes=tuple(episodes),
        summary=summarise(episodes, {task.name: task.long_horizon for task in tasks}),
    )


def _check(tasks: Sequence[Task], episodes_per_task: int, workers: int, robots_per_worker: int) -> None:
    if not tasks:
        raise ConfigError("tasks is empty; name at least one task to evaluate")
    for name, value, least in [
        ("episodes_per_task", episodes_per_task, 1),
        ("workers", workers, 0),
        ("robots_per_worker", robots_per_worker, 1),
    ]:
        if value < least:
            raise ConfigError(f"{name}={value} must be at least {least}")


def _fingerprint(policy: Path | PolicyFactory) -> str:
    if not isinstance(policy, Path):
        return f"{policy.__module__}.{policy.__qualname__}" if hasattr(policy, "__qualname__") else repr(policy)
    files = sorted(path for path in policy.rglob("*") if path.is_file()) if policy.is_dir() else [policy]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{policy.name} sha256:{digest.hexdigest()}"


def _run(
    policy: Path | PolicyFactory, trials: Sequence[Trial], world: str, workers: int, robots: int
) -> Iterator[EpisodeResult]:
    if not trials:
        return
    if workers == 0:
        built = build_policy(policy)
        with open_robots(built, world, min(robots, len(trials))) as pool:
            yield from roll_out(built, iter(trials), pool, batch_size=robots, world=world)
        return
    yield from run_in_processes(policy, trials, world, min(workers, len(trials)), robots)
