"""The learner of a running fleet: the online stage connected to store and bus.

Several processes that train as one each have a replay and draw their own batches; rank 0 alone holds the run's lock,
talks to the fleet and writes.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lwd.algos.lwd import LWD
from lwd.algos.protocol import Metrics
from lwd.algos.recap import Recap, RecapConfig
from lwd.algos.sft import SFT, SFTConfig
from lwd.data.learner_lease import LearnerLease, lock_identity
from lwd.data.leases import SnapshotLease
from lwd.data.policies import StateReference, newest_policy, put_base
from lwd.data.row_table import RowTable
from lwd.data.sampling import BatchSampler, Prefetcher
from lwd.data.steps import imitable_steps
from lwd.data.store import ObjectStore
from lwd.fleet.coordinator_process import bus_of
from lwd.fleet.learner_link import LearnerLink
from lwd.fleet.liveness import alive
from lwd.learner.checkpoint import STATE, CheckpointStore
from lwd.learner.loop import UpdateResult
from lwd.learner.metrics import MetricsLog
from lwd.learner.online import OnlineLimits, OnlineStage
from lwd.learner.parallel import ALONE, Group
from lwd.models.checkpoint import base_bytes, policy_bytes
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.recipes.algorithms import continue_online, stage_files
from lwd.recipes.fleet_publisher import FleetPublisher
from lwd.recipes.prefix_cache import PrefixCache, prefix_metrics
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import Recipe
from lwd.recipes.stages import (
    chunks_per_target,
    described,
    online_strata,
    open_arena,
)

Report = Callable[[OnlineStage], None]
"""Called about once a second."""

LEAST_POLICIES = 10
"""Published within a stage, if it has as many updates."""
_BEAT_S = 1.0
_SEEDS_APART = 1_000_003
"""Between the seeds of two processes, so that neighbouring seeds of the user do not share any."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of the learner's process."""

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    """CPU threads; the simulated robots want the other cores."""
    on_bus: bool = True
    """Whether to use the run's bus; a learner without one only follows the store."""
    max_seconds: float | None = None
    arena_directory: Path | None = None
    """Keeps the replay's rows in files there; None: in memory."""
    prefix_cache: PrefixCache | None = None
    """Keeps what a frozen backbone makes of states; None: it is computed at every update."""


def run_learner(
    run: RunDirectory,
    recipe: Recipe,
    config: LearnerConfig,
    *,
    stop: Callable[[], bool],
    report: Report | None = None,
    group: Group = ALONE,
) -> OnlineStage:
    """Train on what the fleet sends until its steps are used up, the time is over, or `stop()`.

    Args:
        stop: in a group, one process that wants to stop stops all.
        report: called in rank 0.
        group: the processes that train as one. Each draws batches of the recipe's size.
    Raises:
        CheckpointError: if an earlier stage is not finished.
        LeaseTaken: if another learner publishes to the store.
        StoreError: if the store cannot be reached at the start, or for half an hour later; a checkpoint is saved.
        ServiceError: if the bus cannot be reached, or another process of the group ended.
        NonFiniteLoss: if training diverged; the last checkpoint stays.
    """
    torch.set_num_threads(config.threads)
    lock = run.locked("online") if group.leads else nullcontext()
    with lock, _learner_lease(run, group) as own, SnapshotLease(run.store(), _resumed_snapshot(run)) as lease:
        stage, link, table = _open(run, recipe, config, group, own)
        log = MetricsLog(run.path, "learner", "online") if group.leads else None
        last_beat = 0.0
        begun, updates_before = time.monotonic(), stage.progress.update
        try:
            for result in stage.run(stop=stop):
                alive()
                if result is not None and log is not None:
                    _log(log, stage, result, begun, updates_before, prefix_metrics(table))
                if time.monotonic() - last_beat < _BEAT_S:
                    continue
                last_beat = time.monotonic()
                lease.move(stage.reader.version)
                if own is not None:
                    own.check()
                if link is not None:
                    link.beat(
                        stage="online",
                        update=stage.progress.update,
                        snapshot=stage.progress.snapshot,
                        policy_version=stage.progress.policy_version,
                        env_steps=stage.reader.env_steps,
                        env_steps_allowed=step_budget(recipe, stage.progress.update, real=False),
                        real_env_steps_allowed=step_budget(recipe, stage.progress.update, real=True),
                    )
                if report is not None and group.leads:
                    report(stage)
        finally:
            if log is not None:
                log.close()
            stage.reader.close()
            stage.reader.arena.close()
            if table is not None:
                table.close()
            if isinstance(stage.batches, Prefetcher):
                stage.batches.close()
            if link is not None:
                link.close()
        return stage


def _open(
    run: RunDirectory, recipe: Recipe, config: LearnerConfig, group: Group, lease: LearnerLease | None
) -> tuple[OnlineStage, LearnerLink | None, RowTable | None]:
    algorithm = continue_online(
        run,
        recipe.online,
        seed=config.seed + group.rank * _SEEDS_APART,
        device=config.device,
        sum_over_processes=group.sum_over_processes,
    )
    table = None
    if config.prefix_cache is not None:
        table = config.prefix_cache.open_for(algorithm, batch_size=recipe.online.batch_size, rank=group.rank)
    files = stage_files(algorithm, described(recipe.online, seed=config.seed))
    policy = algorithm.policy
    imitates = isinstance(recipe.online.algorithm, SFTConfig)
    reader = open_arena(run, horizon=policy.horizon, instructions=policy.instructions, directory=config.arena_directory)
    sampler = BatchSampler(
        reader.arena,
        online_strata(recipe.online, steps=imitable_steps if imitates else None),
        batch_size=recipe.online.batch_size,
        n_step=chunks_per_target(recipe.online),
        instruction_noise=recipe.online.instruction_noise,
        # The offline stage drew with the seed itself.
        seed=config.seed + (1 + group.rank) * _SEEDS_APART,
    )
    link = None
    if config.on_bus and group.leads:
        link = LearnerLink(lambda: bus_of(run.path, run.bus()))
    if group.leads and isinstance(policy, LeRobotVLA) and not policy.learns_backbone:
        # Robots fetch the frozen backbone once, not with every version.
        base = put_base(run.store(), base_bytes(policy))
        files = replace(files, published=lambda: _published(algorithm, base))
    publish = None
    checkpoints = run.checkpoints("online")
    if lease is not None:
        publish = FleetPublisher(
            run.store(), lease, lambda: _reference(checkpoints), link, at_least=_published_version(run)
        )
    stage = OnlineStage(
        algorithm,
        Prefetcher(sampler),
        reader,
        checkpoints,
        files,
        publish or _publishes_nothing,
        limiter=recipe.fleet.limiter,
        limits=online_limits(recipe, config),
        group=group,
    )
    if lease is not None:
        _publish_anew_what_is_gone(stage, run.store())
    return stage, link, table


def _publish_anew_what_is_gone(stage: OnlineStage, store: ObjectStore) -> None:
    """Have the stage begin with a publication if the store does not hold what its checkpoint has published."""
    found = newest_policy(store)
    newest = -1 if found is None else found.version
    if newest >= stage.progress.policy_version:
        return
    _logger.warning(
        "the store's newest policy is %d, the checkpoint has published %d: policies/ was removed, or restored from an "
        "older copy; a new version is published now, so that robots that start find one",
        newest,
        stage.progress.policy_version,
    )
    # As at the stage's beginning: the first thing that it does is to publish.
    stage.progress = replace(stage.progress, policy_version=-1)


def _learner_lease(run: RunDirectory, group: Group) -> AbstractContextManager[LearnerLease | None]:
    """The store's lease for who publishes; called with the run's lock held."""
    if not group.leads:
        return nullcontext()
    return LearnerLease(run.store(), lock_identity(run.lock_path("online")))


def _reference(checkpoints: CheckpointStore) -> StateReference | None:
    """The newest checkpoint, as policies refer to it."""
    saved = checkpoints.newest
    return None if saved is None else StateReference(update=saved.progress.update, sha256=saved.sha256[STATE])


def _publishes_nothing(data: bytes, update: int, snapshot: int) -> int:
    raise AssertionError("only the process with the lease publishes")


def _published(algorithm: LWD | Recap | SFT, base: str) -> bytes:
    return policy_bytes(algorithm.deployed_policy(), base=base)


def online_limits(recipe: Recipe, config: LearnerConfig) -> OnlineLimits:
    limits = OnlineLimits(max_env_steps=recipe.fleet.env_steps, max_seconds=config.max_seconds)
    if isinstance(recipe.online.algorithm, RecapConfig):
        # The policy of a round is the one that its training ends with.
        return replace(limits, publish_every=recipe.online.algorithm.round_updates)
    # A short stage publishes more often: otherwise robots never act with what it has learned.
    updates = recipe.fleet.limiter.updates_allowed(recipe.fleet.env_steps)
    return replace(limits, publish_every=max(1, min(limits.publish_every, updates // LEAST_POLICIES)))


def _published_version(run: RunDirectory) -> int:
    """The newest version that the stage's checkpoint knows, -1 where it begins."""
    found = run.checkpoints("online").latest()
    return -1 if found is None else found.progress.policy_version


def _resumed_snapshot(run: RunDirectory) -> int | None:
    """The snapshot that the stage continues from; None where it begins, on the newest one."""
    found = run.checkpoints("online").latest()
    return None if found is None else found.progress.snapshot


def step_budget(recipe: Recipe, updates: int, *, real: bool) -> int:
    """Return the fleet steps at which robots begin no new episodes: what the stage uses, or what the learner keeps up
    with after so many updates. A real robot waits for the learner only where the method asks for it."""
    limiter, stage_steps = recipe.fleet.limiter, recipe.fleet.env_steps
    if real and not limiter.holds_real_robots:
        return stage_steps
    return min(limiter.step_budget(updates, stage_steps), stage_steps)


def _log(
    log: MetricsLog, stage: OnlineStage, result: UpdateResult, begun: float, updates_before: int, prefixes: Metrics
) -> None:
    steps, update = stage.reader.env_steps, result.update
    extra = {
        "replay/env_steps": float(steps),
        "replay/episodes": float(stage.reader.fleet_episodes),
        "replay/update_to_data": update / max(steps, 1),
        "replay/acting_policy": float(stage.reader.acting_policy_version),
        "time/update_s": (time.monotonic() - begun - stage.blocked_s) / max(update - updates_before, 1),
        "time/blocked_s": stage.blocked_s,
        **prefixes,
    }
    log.add(
        update,
        result.metrics,
        snapshot=stage.progress.snapshot,
        policy_version=stage.progress.policy_version,
        extra=extra,
    )


def with_fleet(recipe: Recipe, *, robots: int | None, env_steps: int | None, world: str | None) -> Recipe:
    """Return the recipe with another fleet where one is asked for."""
    changes = {"robots": robots, "env_steps": env_steps, "world": world}
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(recipe, fleet=replace(recipe.fleet, **given))  # type: ignore[arg-type]
