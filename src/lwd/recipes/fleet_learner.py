"""The learner of a running fleet: the online stage connected to store and bus."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lwd.data.leases import SnapshotLease
from lwd.data.policies import PolicyPublisher
from lwd.data.sampling import BatchSampler, Prefetcher
from lwd.fleet.coordinator_process import nats_url_of
from lwd.fleet.learner_link import LearnerLink
from lwd.learner.loop import UpdateResult
from lwd.learner.metrics import MetricsLog
from lwd.learner.online import OnlineLimits, OnlineStage
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import Recipe
from lwd.recipes.stages import (
    chunks_per_target,
    continue_online,
    described,
    lwd_files,
    online_strata,
    open_arena,
)

Report = Callable[[OnlineStage], None]
"""Called about once a second."""

_BEAT_S = 1.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of the learner's process."""

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    """CPU threads; the simulated robots want the other cores."""
    nats_url: str | None = None
    """None: the run's embedded server. "none": no bus, a learner that only follows the store."""
    max_seconds: float | None = None


def run_learner(
    run: RunDirectory,
    recipe: Recipe,
    config: LearnerConfig,
    *,
    stop: Callable[[], bool],
    report: Report | None = None,
) -> OnlineStage:
    """Train on what the fleet sends until its steps are used up, the time is over, or `stop()`.

    Raises:
        CheckpointError: if an earlier stage is not finished.
        ServiceError: if the bus cannot be reached.
        NonFiniteLoss: if training diverged; the last checkpoint stays.
    """
    torch.set_num_threads(config.threads)
    with run.locked("online"), SnapshotLease(run.store(), _resumed_snapshot(run)) as lease:
        stage, link = _open(run, recipe, config)
        log = MetricsLog(run.path, "learner", "online")
        last_beat = 0.0
        begun, updates_before = time.monotonic(), stage.progress.update
        try:
            for result in stage.run(stop=stop):
                if result is not None:
                    _log(log, stage, result, begun, updates_before)
                if time.monotonic() - last_beat < _BEAT_S:
                    continue
                last_beat = time.monotonic()
                lease.move(stage.reader.version)
                if link is not None:
                    link.beat(
                        stage="online",
                        update=stage.progress.update,
                        snapshot=stage.progress.snapshot,
                        policy_version=stage.progress.policy_version,
                        env_steps=stage.reader.env_steps,
                        env_steps_allowed=_step_budget(stage, recipe),
                    )
                if report is not None:
                    report(stage)
        finally:
            log.close()
            stage.reader.close()
            if isinstance(stage.batches, Prefetcher):
                stage.batches.close()
            if link is not None:
                link.close()
        return stage


def _open(run: RunDirectory, recipe: Recipe, config: LearnerConfig) -> tuple[OnlineStage, LearnerLink | None]:
    algorithm = continue_online(run, recipe.online, seed=config.seed, device=config.device)
    files = lwd_files(algorithm, described(recipe.online, seed=config.seed))
    policy = algorithm.policy
    reader = open_arena(run, horizon=policy.horizon, instructions=policy.instructions)
    sampler = BatchSampler(
        reader.arena,
        online_strata(recipe.online),
        batch_size=recipe.online.batch_size,
        n_step=chunks_per_target(recipe.online),
        instruction_noise=recipe.online.instruction_noise,
        # The offline stage drew with the seed itself.
        seed=config.seed + 1_000_003,
    )
    link = None
    if config.nats_url != "none":
        link = LearnerLink(lambda: nats_url_of(run.path, config.nats_url))
    publisher = PolicyPublisher(run.store())

    def publish(data: bytes, update: int, snapshot: int) -> int:
        parents = () if publisher.newest < 0 else (publisher.newest,)
        manifest = publisher.publish(data, update=update, snapshot=snapshot, parents=parents)
        if link is not None:
            link.announce_policy(manifest)
        return manifest.version

    stage = OnlineStage(
        algorithm,
        Prefetcher(sampler),
        reader,
        run.checkpoints("online"),
        files,
        publish,
        limiter=recipe.fleet.limiter,
        limits=OnlineLimits(max_env_steps=recipe.fleet.env_steps, max_seconds=config.max_seconds),
    )
    return stage, link


def _resumed_snapshot(run: RunDirectory) -> int | None:
    """The snapshot that the stage continues from; None where it begins, on the newest one."""
    found = run.checkpoints("online").latest()
    return None if found is None else found.progress.snapshot


def _step_budget(stage: OnlineStage, recipe: Recipe) -> int:
    """Fleet steps at which robots begin no new episodes: what the learner keeps up with, and what the stage uses."""
    return min(recipe.fleet.limiter.step_budget(stage.progress.update), recipe.fleet.env_steps)


def _log(log: MetricsLog, stage: OnlineStage, result: UpdateResult, begun: float, updates_before: int) -> None:
    steps, update = stage.reader.env_steps, result.update
    extra = {
        "replay/env_steps": float(steps),
        "replay/episodes": float(stage.reader.fleet_episodes),
        "replay/update_to_data": update / max(steps, 1),
        "time/update_s": (time.monotonic() - begun - stage.blocked_s) / max(update - updates_before, 1),
        "time/blocked_s": stage.blocked_s,
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
