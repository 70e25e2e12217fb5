"""A learner that is small in everything on a real store: what the online stage's tests share."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.data.arena import ReplayArena
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.policies import PolicyPublisher
from lwd.data.reader import ReplayReader
from lwd.data.sampling import BatchSampler, Prefetcher, Stratum, from_sources
from lwd.data.store import DirectoryStore, ObjectStore
from lwd.learner.checkpoint import CheckpointStore
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.online import OnlineLimits, OnlineStage
from lwd.learner.parallel import ALONE, Group
from lwd.learner.stage import StageFiles
from lwd.models.checkpoint import policy_bytes, value_bytes
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment, Episode, EpisodeInfo, Outcome, Source, TokenSpec

EMBODIMENT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="proprio", size=4), TokenSpec(name="object", size=3)),
    action_low=(-1.0, -2.0),
    action_high=(1.0, 4.0),
)
STEPS = 6
FAR_AHEAD = UpdateToDataLimiter(updates_per_step=100.0)


class Fleet:
    """Commits episodes to a store's log, one version each."""

    def __init__(self, store: DirectoryStore) -> None:
        self.store = store
        self.count = 0

    def commit(self, source: Source = Source.FLEET) -> None:
        name = f"episode-{self.count:03d}"
        self.count += 1
        rng = np.random.default_rng(self.count)
        info = EpisodeInfo(
            episode_id=name, robot_id="r1", embodiment=EMBODIMENT.name, task=f"task-{self.count % 2}",
            instruction="go", source=source, outcome=Outcome.SUCCESS if self.count % 3 else Outcome.TIME_LIMIT,
            policy_version=0, sub_step_scores=(1.0,), control_hz=10.0, seed=self.count, world="nominal",
            started_at_s=1.0, software_version="0",
        )  # fmt: skip
        episode = Episode(
            info=info,
            states_TS=rng.normal(size=(STEPS + 1, EMBODIMENT.state_size)).astype(np.float32),
            actions_TA=rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
            controllers_T=np.zeros(STEPS, np.uint8),
        )
        data, key = write_episode(episode), episode_key("r1", name)
        self.store.create(key, data)
        entry = EpisodeEntry(
            episode_id=name, key=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), robot_id="r1",
            embodiment=EMBODIMENT.name, task=info.task, instruction="go", source=source, outcome=info.outcome,
            world="nominal", policy_version=0, steps=STEPS, human_steps=0, interventions=0, sub_step_scores=(1.0,),
            control_hz=10.0, started_at_s=1.0, uploaded_at_s=2.0,
        )  # fmt: skip
        reader = LogReader(self.store)
        reader.poll()
        version = LogEntry(version=reader.version + 1, epoch=1, batch_id=name, committed_at_s=3.0, added=(entry,))
        assert LogWriter(self.store, reader).commit(version)


@dataclass
class Site:
    """One run: its store, its fleet, and learners that may be killed and started again."""

    path: Path
    fleet: Fleet
    published: list[tuple[int, int, str]] = field(default_factory=list)
    """(update, snapshot, hash of the policy) of every published policy."""

    def learner(
        self,
        *,
        limiter=FAR_AHEAD,
        limits: OnlineLimits | None = None,
        learning_rate=1e-3,
        group: Group = ALONE,
        store: ObjectStore | None = None,
    ) -> OnlineStage:
        algorithm = build(group, temperature="auto", spread_every=7, actor_every=2, actor_learning_rate=learning_rate)
        arena = ReplayArena(
            EMBODIMENT, horizon=3, gamma=0.9, embed=lambda text: np.full(EMBEDDING_SIZE, 0.5, np.float32)
        )
        strata = [
            Stratum(episodes=from_sources(Source.DEMONSTRATION)),
            Stratum(episodes=from_sources(Source.FLEET)),
        ]
        sampler = BatchSampler(arena, strata, batch_size=8, seed=7 + group.rank, instruction_noise=0.1)
        publisher = PolicyPublisher(self.fleet.store)

        def publish(data: bytes, update: int, snapshot: int) -> int:
            self.published.append((update, snapshot, hashlib.sha256(data).hexdigest()))
            return publisher.publish(data, update=update, snapshot=snapshot).version

        return OnlineStage(
            algorithm,
            Prefetcher(sampler),
            ReplayReader(store or self.fleet.store, arena),
            CheckpointStore(self.path / "checkpoints"),
            StageFiles(
                policy=lambda: policy_bytes(algorithm.policy),
                value=lambda: value_bytes(algorithm.critic),
                config={"learning_rate": learning_rate},
            ),
            publish,
            limiter=limiter,
            limits=limits or OnlineLimits(publish_every=10, adopt_every=10),
            group=group,
        )


def networks() -> tuple[SmallVLA, ValueCritic]:
    """Policy and critic, always with the same weights."""
    torch.manual_seed(0)
    statistics = StateStatistics(mean=(0.1,) * 7, std=(1.5,) * 7)
    sizes = VLAConfig(horizon=3, token_width=8, context_size=16, expert_width=32, expert_depth=2)
    policy = SmallVLA(EMBODIMENT, sizes, statistics)
    critic_sizes = CriticConfig(token_width=8, readout_size=16, action_width=8, pooling_heads=2, width=32)
    return policy, ValueCritic(EMBODIMENT, critic_sizes, statistics, horizon=3)


def build(group: Group = ALONE, **settings) -> LWD:
    """A learner's algorithm; in a group each process has its own noise."""
    policy, critic = networks()
    config = LWDConfig(flow_steps=4, **settings)
    generator = torch.Generator().manual_seed(3 + group.rank)
    sum_over_processes = group.sum_over_processes
    return LWD(policy, deepcopy(policy), critic, config, generator, sum_over_processes=sum_over_processes)


def rows(batch: TransitionBatch, chosen: slice) -> TransitionBatch:
    """A part of a batch."""

    def observations(of: ObservationBatch) -> ObservationBatch:
        return ObservationBatch(state_BS=of.state_BS[chosen], instruction_BE=of.instruction_BE[chosen])

    parts = {
        name: observations(value) if isinstance(value, ObservationBatch) else value[chosen]
        for name, value in vars(batch).items()
    }
    return TransitionBatch(**parts)


def random_batch(size: int, seed: int) -> TransitionBatch:
    """Transitions of random numbers."""
    random = torch.Generator().manual_seed(seed)

    def observation() -> ObservationBatch:
        return ObservationBatch(
            state_BS=torch.randn(size, EMBODIMENT.state_size, generator=random),
            instruction_BE=torch.randn(size, EMBEDDING_SIZE, generator=random),
        )

    return TransitionBatch(
        observation=observation(),
        action_chunk_BHA=torch.rand(size, 3, 2, generator=random) * 2 - 1,
        action_mask_BH=torch.arange(3) < torch.randint(1, 4, (size, 1), generator=random),
        human_BH=torch.zeros(size, 3, dtype=torch.bool),
        return_B=torch.randint(0, 2, (size,), generator=random).float(),
        outcome_return_B=torch.zeros(size),
        bootstrap_observation=observation(),
        bootstrap_discount_B=torch.full((size,), 0.97),
        task_B=torch.zeros(size, dtype=torch.int64),
        imitable_BH=(torch.rand(size, 1, generator=random) < 0.7).expand(size, 3),
    )
