"""Train a method on play data from scratch, evaluate it as OGBench does, and keep every result at once."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.data import durable
from lwd.errors import ConfigError
from lwd.evaluation.statistics import wilson_interval
from lwd.learner.checkpoint import CheckpointStore
from lwd.learner.loop import UpdateResult
from lwd.learner.stage import Stage
from lwd.models.acting import ActingPolicy
from lwd.models.best_of_n import BestOfN
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.precision import Precision
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.algorithms import stage_files
from lwd.recipes.ogbench_check.dataset import SUB_GOALS, PlayBatches, environment_id, load_play_data
from lwd.recipes.ogbench_check.play_data import EPISODE_STEPS, EPISODES_PER_SHARD, BenchmarkEnv, make_play_data
from lwd.types import Embodiment, Observation, TokenSpec

CheckMethod = Literal["lwd", "qam"]
Extraction = Literal["qam", "best_of_n"]
EXTRACTIONS: tuple[Extraction, ...] = ("qam", "best_of_n")
"""What acts in an evaluation: the policy that QAM trained, or the best of the reference's chunks by the same critic."""
RESULTS = "ogbench_check.json"
PUBLISHED: dict[BenchmarkEnv, list[dict[str, Any]]] = {
    "scene": [{"method": "QAM", "mean": 0.98, "pm": 0.03}, {"method": "FQL", "mean": 0.71, "pm": 0.10}],
    "cube-double": [{"method": "QAM", "mean": 0.79, "pm": 0.12}, {"method": "FQL", "mean": 0.46, "pm": 0.11}],
}
"""Success after a million updates, arXiv 2601.14234."""
EVALUATION_STARTS = 1_000_000
"""Seed of the first evaluation episode's start; the others count on from it."""
_INSTRUCTION = "task"
# The benchmark's state is one token of 37 or 40 numbers: a narrower one would lose some of them in the first layer.
_TOKEN_WIDTH = 256


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One evaluation episode."""

    success: bool
    score: float
    """The most sub-goals that were met at once beyond those met at the start, as a share of those open there."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """One training run."""

    env: BenchmarkEnv
    method: CheckMethod
    root: Path
    out: Path
    """Directory of ogbench_check.json."""
    seed: int = 0
    updates: int = 100_000
    evaluate_every: int = 25_000
    episodes: int = 50
    shards: int = 50
    """Of ten episodes of 1,001 steps."""
    workers: int = 2
    horizon: int = 5
    gamma: float = 0.99
    batch_size: int = 256
    critic_warmup_updates: int = 10_000
    """Updates of critic and reference before the actor's first; until then the policy is the reference."""
    temperature_fraction: float = 1.5
    """QAM's temperature in units of Q's spread over the reference's chunks at a state."""
    precision: Precision = "float32"
    """Of the matrix products in training; evaluations act in float32."""
    policy: VLAConfig = field(default_factory=lambda: VLAConfig(token_width=_TOKEN_WIDTH))
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(token_width=_TOKEN_WIDTH))

    def __post_init__(self) -> None:
        for name in ("updates", "evaluate_every", "episodes", "shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.updates <= self.critic_warmup_updates:
            raise ConfigError(
                f"updates is {self.updates:,}, which trains no policy: the first {self.critic_warmup_updates:,} are "
                "for critic and reference alone; ask for more"
            )


def algorithm_settings(config: CheckConfig) -> tuple[LWDConfig, CriticConfig]:
    """Return the settings of a method: what the scene recipe learned, where the benchmark does not say otherwise.

    Rates are the benchmark papers' 3e-4; the reference imitates all of the data while the others learn, as in
    arXiv 2601.14234. Play has no task in mind and what it does on average leads nowhere, so the quantile is close to
    the best of what follows (docs/ogbench-check.md says how it was chosen). An actor's update for the whole batch costs
    four of LWD's critic's, so it is made for half of it, every second time. Before the first one reference and critic
    learn alone: a policy that follows an untrained critic leaves what the reference would do, and comes back slowly.
    """
    low = -float(SUB_GOALS[config.env])
    critic = replace(config.critic, value_low=1.1 * low, value_high=-0.1 * low)
    settings = LWDConfig(
        quantile_base=0.99,
        entropy_weight=0.1,
        quantile_high=0.99,
        temperature="auto",
        auto_temperature_fraction=config.temperature_fraction,
        rollout="policy",
        actor_every=2,
        critic_warmup_updates=config.critic_warmup_updates,
        actor_batch_size=config.batch_size // 2,
        bootstrap_low=low,
        bootstrap_high=0.0,
        critic_learning_rate=3e-4,
        actor_learning_rate=3e-4,
        reference_learning_rate=3e-4,
        policy_polyak_rate=0.005,
        critic_loss_weight=20.0,
    )
    if config.method == "lwd":
        return settings, critic
    return replace(settings, value="policy_td", critic_loss_weight=1.0), replace(critic, num_critics=10)


def run_check(
    config: CheckConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[UpdateResult, int], None] = lambda result, updates: None,
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Make what data is missing, train, and evaluate on the way. An interrupted run continues.

    Returns:
        Whether all updates are done and evaluated.
    Raises:
        ConfigError: if settings do not fit the run that was begun.
    """
    paths = make_play_data(
        config.root,
        config.env,
        range(config.shards),
        workers=config.workers,
        progress=lambda done, total: say(f"play data of {config.env}: {done} of {total} shards"),
    )
    batches = PlayBatches(
        load_play_data(config.env, paths),
        horizon=config.horizon,
        gamma=config.gamma,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    algorithm = _build(config, batches)
    described = {
        "env": config.env,
        "method": config.method,
        "seed": config.seed,
        "shards": config.shards,
        "gamma": config.gamma,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "algorithm": asdict(algorithm.config),
    }
    checkpoints = _checkpoints(config)
    points = sorted({*range(config.evaluate_every, config.updates, config.evaluate_every), config.updates})
    for updates in points:
        found = checkpoints.latest()
        if found is not None and found.progress.update > updates:
            continue
        stage = Stage(
            "ogbench-check", algorithm, checkpoints, stage_files(algorithm, described), updates=updates, snapshot=0
        )
        for result in stage.run(batches, stop=stop):
            watch(result, config.updates)
        if stage.progress.update < updates:
            return False
        for extraction in EXTRACTIONS:
            if not _is_recorded(config, updates, extraction):
                say(f"evaluating {extraction} after {updates:,} updates")
                record(config, updates, extraction, evaluate(acting(algorithm, extraction), config))
    return True


def newest(config: CheckConfig, batches: PlayBatches) -> LWD:
    """Return a run's networks as of its newest checkpoint.

    Args:
        batches: of the run's data, which says what states are like.
    Raises:
        ConfigError: if the run has no checkpoint.
        ResumeError: if the newest one is damaged, or is of other networks.
    """
    checkpoints = _checkpoints(config)
    found = checkpoints.latest()
    if found is None:
        raise ConfigError(f"{checkpoints.directory} holds no checkpoint: train first, with lwd ogbench-check")
    algorithm = _build(config, batches)
    algorithm.load_state(found.state())
    return algorithm


def _checkpoints(config: CheckConfig) -> CheckpointStore:
    return CheckpointStore(config.root / config.env / f"{config.method}-seed{config.seed}" / "checkpoints")


def _build(config: CheckConfig, batches: PlayBatches) -> LWD:
    settings, critic_config = algorithm_settings(config)
    states = batches.states
    embodiment = Embodiment(
        name=environment_id(config.env),
        control_hz=20.0,
        state_tokens=(TokenSpec(name="observation", size=states.shape[1]),),
        action_low=(-1.0,) * 5,
        action_high=(1.0,) * 5,
    )
    statistics = StateStatistics.of(states)
    torch.manual_seed(config.seed)
    known = InstructionEncoder({_INSTRUCTION: np.zeros(EMBEDDING_SIZE, np.float32)})
    policy_config = replace(config.policy, horizon=config.horizon)
    policy = SmallVLA(embodiment, policy_config, statistics, known)
    reference = SmallVLA(embodiment, policy_config, statistics, known)
    reference.load_state_dict(policy.state_dict())
    critic = ValueCritic(embodiment, critic_config, statistics, config.horizon)
    algorithm = LWD(policy, reference, critic, settings, torch.Generator().manual_seed(config.seed))
    # LWD keeps a running average of the reference beside the one that learns.
    for network in (policy, reference, algorithm.reference, critic, algorithm.target_critic):
        network.precision = config.precision
    return algorithm


def acting(algorithm: LWD, extraction: Extraction) -> ActingPolicy:
    """Return what acts; best-of-N takes the critic and the reference of the same training run."""
    if extraction == "qam":
        return algorithm.averaged_policy
    reference, critic = deepcopy(algorithm.reference), deepcopy(algorithm.target_critic)
    reference.precision = critic.precision = "float32"
    return BestOfN(reference, critic, algorithm.config.samples)


def evaluate(
    policy: ActingPolicy,
    config: CheckConfig,
    *,
    first_start: int = EVALUATION_STARTS,
    see: Callable[[int, Mapping[str, Any]], None] = lambda episode, info: None,
) -> list[Attempt]:
    """Return OGBench's own episodes: its start states, its time limit, its test of success.

    Args:
        first_start: seed of the first start; whoever looks into results takes others than the results do.
        see: is told an episode's number and what the simulator says, after the reset and after every step.
    """
    import ogbench

    import lwd.robots.sim.simulator  # noqa: F401 - chooses MuJoCo's OpenGL before MuJoCo is imported

    simulator = ogbench.make_env_and_datasets(environment_id(config.env), env_only=True)
    generator = torch.Generator().manual_seed(config.seed)
    attempts = []
    try:
        for episode in range(config.episodes):
            observation, info = simulator.reset(seed=first_start + episode)
            see(episode, info)
            success = done = False
            rewards = []
            while not done:
                seen = [Observation(state=np.asarray(observation, dtype=np.float32))]
                for action in policy.act(seen, [_INSTRUCTION], generator=generator)[0]:
                    observation, reward, terminated, truncated, info = simulator.step(action)
                    rewards.append(float(reward))
                    see(episode, info)
                    success |= bool(info["success"])
                    done = terminated or truncated
                    if done:
                        break
            # The package's reward is minus the number of open sub-goals.
            attempts.append(Attempt(success=success, score=1 - max(rewards) / min(rewards[0], -1.0)))
    finally:
        simulator.close()
    return attempts


def _load(out: Path) -> dict[str, Any]:
    path = out / RESULTS
    return json.loads(path.read_text()) if path.exists() else {"benchmarks": [], "data": ""}


def _is_recorded(config: CheckConfig, updates: int, extraction: Extraction) -> bool:
    env, fraction = environment_id(config.env), config.temperature_fraction
    wanted = (env, config.method, config.seed, updates, extraction, fraction, config.precision)
    return any(_key(row) == wanted for row in _load(config.out)["benchmarks"])


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells results apart."""
    names = ("env", "method", "seed", "updates", "extraction", "temperature_fraction", "precision")
    return tuple(row[name] for name in names)


def record(config: CheckConfig, updates: int, extraction: Extraction, attempts: list[Attempt]) -> None:
    """Add an evaluation to the results, also while other runs add theirs.

    Raises:
        StoreError: if the results cannot be written.
    """
    interval = wilson_interval(sum(attempt.success for attempt in attempts), len(attempts))
    row = {
        "env": environment_id(config.env),
        "method": config.method,
        "seed": config.seed,
        "updates": updates,
        "extraction": extraction,
        "temperature_fraction": config.temperature_fraction,
        "precision": config.precision,
        "success": interval.mean,
        "episodes": len(attempts),
        "ci95": [interval.low, interval.high],
        "score": float(np.mean([attempt.score for attempt in attempts])),
        "published": PUBLISHED[config.env],
    }
    durable.ensure_directory(config.out)
    with _locked(config.out):
        rows = [*_load(config.out)["benchmarks"], row]
        rows.sort(key=_key)
        content = {"benchmarks": rows, "data": _about(config)}
        durable.replace(config.out / RESULTS, json.dumps(content, indent=1).encode())


def _about(config: CheckConfig) -> str:
    steps = config.shards * EPISODES_PER_SHARD * EPISODE_STEPS
    settings = algorithm_settings(config)[0]
    return (
        f"Play data made again with OGBench's own plan oracles and their noise of .1: {steps:,} steps per task where "
        "the published sets have a million, other random numbers, the same episode length and rules. Rewards by the "
        "package's relabelling; scene in the sparse form (-1 until done) of the published figures. Networks of width "
        f"256 where the source's are 4 x 512, batch {config.batch_size}, chunks of {config.horizon}, discount "
        f"{config.gamma}; an actor's update for half of the batch after every second of the critic's, the first after "
        f"{settings.critic_warmup_updates:,}. The published figures are after a million updates of both, ours after "
        "those given of the critic. Acting: QAM's policy, "
        f"or the best of {settings.samples} of the reference's chunks by the critic of the same run. Temperature: "
        "QAM's, in units of Q's standard deviation over the reference's chunks at a state. Matrix products in "
        f"training: {config.precision}."
    )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
