"""Roll a policy out on several simulated robots in lockstep, in this process.

An episode's result does not depend on what shares its batch: its noise comes from its own generator, all
robots of a batch replan together, and the batch always has the same size (empty rows repeat a running
robot), because matrix products of another size round differently.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lwd.evaluation.results import EpisodeResult
from lwd.models.checkpoint import load_policy
from lwd.models.protocol import Policy
from lwd.robots.protocol import Robot
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import make_robot
from lwd.types import FloatArray, Source, Task

PolicyFactory = Callable[[], Policy]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One episode to evaluate."""

    task: Task
    index: int
    seed: int
    instruction: str


def build_policy(policy: Path | PolicyFactory) -> Policy:
    """Load or build the policy to evaluate."""
    return load_policy(policy) if isinstance(policy, Path) else policy()


@contextmanager
def open_robots(policy: Policy, world: str, count: int) -> Iterator[list[Robot]]:
    """Simulated robots of the policy's embodiment, closed in the end."""
    pool: list[Robot] = [make_robot(policy.embodiment.name, world) for _ in range(count)]
    try:
        yield pool
    finally:
        for robot in pool:
            robot.close()


def roll_out(
    policy: Policy, trials: Iterator[Trial], robots: Sequence[Robot], *, batch_size: int, world: str
) -> Iterator[EpisodeResult]:
    """Run episodes on a pool of robots in lockstep: one batched chunk, then every robot executes it.

    Args:
        trials: drawn one by one, whenever a robot is free.
        robots: at most batch_size.
        batch_size: rows of every call of the policy.
    """
    running: dict[int, tuple[Trial, EpisodeSession, np.random.Generator]] = {}
    while True:
        for slot in range(len(robots)):
            if slot not in running and (trial := next(trials, None)) is not None:
                session = _session(robots[slot], trial, slot, world)
                running[slot] = (trial, session, np.random.default_rng(trial.seed))
        if not running:
            return
        noise = {
            slot: rng.standard_normal(policy.noise_shape, dtype=np.float32) for slot, (_, _, rng) in running.items()
        }
        # Empty rows repeat a running robot, so that the batch keeps its size.
        rows = [slot if slot in running else next(iter(running)) for slot in range(batch_size)]
        with torch.inference_mode():
            chunks_BHA = policy.act(
                [running[slot][1].observation for slot in rows],
                [running[slot][0].instruction for slot in rows],
                noise_BHA=np.stack([noise[slot] for slot in rows]),
            )
        for slot, (trial, session, _) in list(running.items()):
            _execute(session, chunks_BHA[slot])
            if session.done:
                del running[slot]
                yield _result(trial, session)


def _session(robot: Robot, trial: Trial, slot: int, world: str) -> EpisodeSession:
    return EpisodeSession(
        robot,
        trial.task,
        trial.instruction,
        seed=trial.seed,
        robot_id=f"evaluation-{slot}",
        source=Source.ROLLOUT,
        policy_version=0,
        world=world,
    )


def _execute(session: EpisodeSession, chunk_HA: FloatArray) -> None:
    session.load_chunk(chunk_HA)
    while not session.done and not session.needs_chunk:
        session.step()


def _result(trial: Trial, session: EpisodeSession) -> EpisodeResult:
    episode = session.episode()
    return EpisodeResult(
        task=trial.task.name,
        index=trial.index,
        seed=trial.seed,
        instruction=trial.instruction,
        outcome=episode.info.outcome,
        steps=episode.steps,
        sub_step_scores=episode.info.sub_step_scores,
    )
