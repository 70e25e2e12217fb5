"""The stages of a run, each from its inputs on disk to its checkpoint: SFT and offline learning."""

import dataclasses
from collections.abc import Callable
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.recap import Recap, RecapConfig
from lwd.algos.sft import SFT
from lwd.data.arena import OTHER_TASKS, ReplayArena
from lwd.data.leases import SnapshotLease
from lwd.data.reader import ReplayReader
from lwd.data.sampling import BatchSampler, EpisodeFilter, Prefetcher, StepFilter, Stratum, from_sources, human_steps
from lwd.data.steps import imitable_steps
from lwd.errors import CheckpointError, ConfigError
from lwd.learner.checkpoint import Checkpoint
from lwd.learner.loop import UpdateResult
from lwd.learner.metrics import MetricsLog
from lwd.learner.stage import Stage, require_same_settings
from lwd.models.advantage import AdvantagePolicy
from lwd.models.checkpoint import load_vla
from lwd.models.critic import ValueCritic
from lwd.models.flow_policy import FlowPolicy
from lwd.models.instruction import InstructionEncoder
from lwd.models.lerobot.adapters import AdaptedVLA
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA
from lwd.recipes.advice import fill
from lwd.recipes.algorithms import build_lwd, build_recap, small_policy, stage_files
from lwd.recipes.prefix_cache import PrefixCache, prefix_metrics
from lwd.recipes.pretrained import PretrainedPolicy
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import GAMMA, Recipe, SFTRecipe, StageRecipe
from lwd.robots.sim import TASKS
from lwd.types import Source

OFFLINE_SOURCES = (Source.DEMONSTRATION, Source.ROLLOUT, Source.PLAY)

Watch = Callable[[UpdateResult, int], None]
"""Called after every update with its result and the number of updates of the stage."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How a stage is watched and stopped."""

    watch: Watch | None = None
    stop: Callable[[], bool] = lambda: False
    device: str = "cpu"
    prefix_cache: PrefixCache | None = None
    """Keeps what a frozen backbone makes of states; None: it is computed at every update."""


def open_arena(
    run: RunDirectory, *, horizon: int, instructions: InstructionEncoder, directory: Path | None = None
) -> ReplayReader:
    """Open the run's replay, still empty: `advance` brings it to a snapshot.

    Args:
        directory: where to keep its rows, for a replay larger than the memory; None: in memory.
    """
    # All paraphrases in one pass of the sentence encoder; the policy's checkpoint will know them all.
    instructions.add(i for task in TASKS.values() for i in (*task.instructions, *task.heldout_instructions))
    arena = ReplayArena(
        run.embodiment(),
        horizon=horizon,
        gamma=GAMMA,
        embed=instructions,
        tasks=tuple(TASKS),
        directory=directory,
    )
    return ReplayReader(run.store(), arena)


def open_arena_at(
    run: RunDirectory, snapshot: int | None, *, horizon: int, instructions: InstructionEncoder
) -> ReplayReader:
    """Open the run's replay at a snapshot, or at the newest one. Nothing more is fetched later.

    Raises:
        StoreError: if the snapshot cannot be read in full.
    """
    # Taken first: from here on retention leaves what the snapshot needs.
    with (
        SnapshotLease(run.store(), snapshot),
        closing(open_arena(run, horizon=horizon, instructions=instructions)) as reader,
    ):
        reader.advance(snapshot)
    return reader


def run_sft(
    run: RunDirectory,
    recipe: SFTRecipe,
    *,
    seed: int,
    pretrained: PretrainedPolicy | None = None,
    control: Control | None = None,
) -> Checkpoint:
    """Fit the reference policy to the demonstrations; continue where it was interrupted.

    Args:
        pretrained: a policy of LeRobot's to begin with; None: the recipe's small policy, from scratch.
    Raises:
        CheckpointError: if the store holds no demonstration, or there is no such pretrained policy.
        ResumeError: if the stage was begun with other settings.
        ConfigError: if another process runs it.
    """
    with run.locked("sft"):
        return _sft(run, recipe, seed, pretrained, control or Control())


def _sft(
    run: RunDirectory, recipe: SFTRecipe, seed: int, pretrained: PretrainedPolicy | None, control: Control
) -> Checkpoint:
    checkpoints, config = run.checkpoints("sft"), described(recipe, seed=seed, pretrained=pretrained)
    found = checkpoints.latest()
    if found is not None and found.progress.finished:
        require_same_settings(found, config)
        return found
    instructions = InstructionEncoder()
    snapshot = None if found is None else found.progress.snapshot
    horizon = recipe.policy.horizon if pretrained is None else pretrained.chunk_size()
    reader = open_arena_at(run, snapshot, horizon=horizon, instructions=instructions)
    view = reader.arena.view
    if not any(info.source is Source.DEMONSTRATION for info in view.infos):
        raise CheckpointError(
            f"the store of run {run.path} has no demonstrations: {fill(run.path, run.own_embodiment())}"
        )
    torch.manual_seed(seed)
    policy: FlowPolicy
    if pretrained is None:
        statistics = StateStatistics.of(np.asarray(view.states_RS))
        policy = SmallVLA(reader.arena.embodiment, recipe.policy, statistics, instructions)
    else:
        loaded = pretrained.load(reader.arena, instructions)
        policy = AdaptedVLA(loaded, pretrained.lora_rank) if pretrained.lora_rank else loaded
    algorithm = SFT(policy.to(control.device), recipe.algorithm, torch.Generator(control.device).manual_seed(seed))
    stage = Stage(
        "sft",
        algorithm,
        checkpoints,
        stage_files(algorithm, config),
        updates=recipe.updates,
        snapshot=reader.version,
    )
    strata = [Stratum(episodes=from_sources(Source.DEMONSTRATION), unlabelled=True)]
    sampler = BatchSampler(
        reader.arena,
        strata,
        batch_size=recipe.batch_size,
        instruction_noise=recipe.instruction_noise,
        seed=seed,
    )
    return _run(run, stage, sampler, control)


def run_offline(run: RunDirectory, recipe: StageRecipe, *, seed: int, control: Control | None = None) -> Checkpoint:
    """Learn V, Q and a better policy from the offline data; continue where it was interrupted.

    Raises:
        CheckpointError: if the SFT stage is not finished.
        ResumeError: if the stage was begun with other settings.
        ConfigError: if another process runs it.
    """
    with run.locked("offline"):
        return _offline(run, recipe, seed, control or Control())


def _offline(run: RunDirectory, recipe: StageRecipe, seed: int, control: Control) -> Checkpoint:
    checkpoints, config = run.checkpoints("offline"), described(recipe, seed=seed)
    found = checkpoints.latest()
    if found is not None and found.progress.finished:
        require_same_settings(found, config)
        return found
    policy = load_vla(run.finished("sft", "sft").policy_path)
    if isinstance(policy, LeRobotVLA) and isinstance(recipe.algorithm, LWDConfig):
        policy = policy if recipe.algorithm.train_backbone else policy.frozen()
    snapshot = None if found is None else found.progress.snapshot
    reader = open_arena_at(run, snapshot, horizon=policy.horizon, instructions=policy.instructions)
    torch.manual_seed(seed)
    critic = ValueCritic(
        policy.embodiment,
        recipe.critic,
        policy.normalizer.statistics,
        policy.horizon,
        instructions=policy.instructions,
        # A stage that goes on loads trained ones.
        pretrained_weights=found is None,
    )
    algorithm: LWD | Recap
    if isinstance(recipe.algorithm, RecapConfig):
        conditioned = AdvantagePolicy(small_policy(policy, "recap"), recipe.algorithm.guidance)
        algorithm = build_recap(conditioned, critic, recipe, recipe.algorithm, seed=seed, device=control.device)
    elif isinstance(policy, LeRobotVLA) and policy.config.lora_rank and isinstance(recipe.algorithm, LWDConfig):
        algorithm = _adapting(policy, critic, recipe, recipe.algorithm, seed=seed, device=control.device)
    else:
        algorithm = build_lwd(policy, deepcopy(policy), critic, recipe, seed=seed, device=control.device)
    stage = Stage(
        "offline",
        algorithm,
        checkpoints,
        stage_files(algorithm, config),
        updates=recipe.updates,
        snapshot=reader.version,
    )
    sampler = BatchSampler(
        reader.arena,
        offline_strata(recipe),
        batch_size=recipe.batch_size,
        n_step=chunks_per_target(recipe),
        instruction_noise=recipe.instruction_noise,
        seed=seed,
    )
    return _run(run, stage, sampler, control)


def _adapting(
    policy: LeRobotVLA, critic: ValueCritic, recipe: StageRecipe, settings: LWDConfig, *, seed: int, device: str
) -> LWD:
    """LWD that learns adapters in backbone and expert; the reference is the network without them."""
    if settings.reference_learning_rate is not None:
        raise ConfigError(
            f"reference_learning_rate is {settings.reference_learning_rate}: with lora_rank {policy.config.lora_rank} "
            "the reference is the policy's own network, which does not learn; set it to None"
        )
    whole = replace(recipe, algorithm=replace(settings, train_backbone=True))
    return build_lwd(AdaptedVLA(policy, policy.config.lora_rank), policy, critic, whole, seed=seed, device=device)


def run_filtered_bc(
    run: RunDirectory, recipe: Recipe, *, updates: int, seed: int, control: Control | None = None
) -> Checkpoint:
    """The control: train the SFT policy on by imitation of what the run's data has worth imitating.

    The data is all of the finished online stage's, offline and fleet at 1:1 as there; demonstrations, successes and
    human corrections are imitated (`imitable_steps`). Continues where it was interrupted.

    Raises:
        CheckpointError: if the online stage is not finished.
        ResumeError: if the stage was begun with other settings.
        ConfigError: if another process runs it.
    """
    with run.locked("filtered_bc"):
        return _filtered_bc(run, recipe, updates, seed, control or Control())


def _filtered_bc(run: RunDirectory, recipe: Recipe, updates: int, seed: int, control: Control) -> Checkpoint:
    checkpoints = run.checkpoints("filtered_bc")
    config = {"seed": seed, "updates": updates, **dataclasses.asdict(recipe.imitation)}
    found = checkpoints.latest()
    if found is not None and found.progress.finished:
        require_same_settings(found, config)
        return found
    online = run.finished("online", "up")
    policy = load_vla(run.finished("sft", "sft").policy_path)
    snapshot = online.progress.snapshot
    reader = open_arena_at(run, snapshot, horizon=policy.horizon, instructions=policy.instructions)
    algorithm = SFT(policy.to(control.device), recipe.imitation, torch.Generator(control.device).manual_seed(seed))
    stage = Stage(
        "filtered_bc",
        algorithm,
        checkpoints,
        stage_files(algorithm, config),
        updates=updates,
        snapshot=reader.version,
    )
    sampler = BatchSampler(
        reader.arena,
        online_strata(recipe.online, steps=imitable_steps),
        batch_size=recipe.sft.batch_size,
        instruction_noise=recipe.sft.instruction_noise,
        seed=seed,
    )
    return _run(run, stage, sampler, control)


def offline_strata(recipe: StageRecipe, *, steps: StepFilter | None = None) -> list[Stratum]:
    """The offline data, a part of it drawn from demonstrations alone."""
    offline, demonstrations = from_sources(*OFFLINE_SOURCES), from_sources(Source.DEMONSTRATION)
    return _split(offline, steps, recipe.demonstration_share, demonstrations)


def online_strata(recipe: StageRecipe, *, steps: StepFilter | None = None) -> list[Stratum]:
    """Offline data and fleet at 1:1, a part of the fleet's half drawn from human corrections alone."""
    fleet = from_sources(Source.FLEET)
    return [*offline_strata(recipe, steps=steps), *_split(fleet, steps, recipe.human_share, fleet, human_steps)]


def _split(
    episodes: EpisodeFilter,
    steps: StepFilter | None,
    share: float,
    part: EpisodeFilter,
    part_steps: StepFilter | None = None,
) -> list[Stratum]:
    """One unit of a batch from `episodes`, of which a share comes from a part of them."""
    strata = [Stratum(fraction=1 - share, episodes=episodes, steps=steps)] if share < 1 else []
    return strata + ([Stratum(fraction=share, episodes=part, steps=part_steps)] if share > 0 else [])


def chunks_per_target(recipe: StageRecipe) -> dict[str, int]:
    """n of the n-step target for every task; what we know nothing about counts as long."""
    known = {task.name: recipe.n_step_long if task.long_horizon else recipe.n_step_short for task in TASKS.values()}
    return {**known, OTHER_TASKS: recipe.n_step_long}


def described(
    recipe: SFTRecipe | StageRecipe, *, seed: int, pretrained: PretrainedPolicy | None = None
) -> dict[str, Any]:
    """Return the recipe and seed as plain data: what a resumed stage must agree with."""
    start = {} if pretrained is None else {"pretrained": dataclasses.asdict(pretrained)}
    return {"seed": seed, **dataclasses.asdict(recipe), **start}


def _run(run: RunDirectory, stage: Stage, sampler: BatchSampler, control: Control) -> Checkpoint:
    cache = control.prefix_cache
    table = None if cache is None else cache.open_for(stage.algorithm, batch_size=sampler.batch_size)
    with (
        nullcontext() if table is None else closing(table),
        closing(MetricsLog(run.path, "learner", stage.progress.stage)) as log,
        Prefetcher(sampler) as batches,
    ):
        for result in stage.run(batches, stop=control.stop):
            log.add(
                result.update,
                result.metrics,
                snapshot=stage.progress.snapshot,
                policy_version=0,
                extra=prefix_metrics(table),
            )
            if control.watch is not None:
                control.watch(result, stage.updates)
    found = stage.checkpoints.latest()
    if found is None:
        raise CheckpointError(f"stage {stage.progress.stage!r} left no checkpoint in {stage.checkpoints.directory}")
    return found
