"""How fast the learner updates, against the arithmetic it cannot avoid and against the official QAM agent."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.batch import TransitionBatch
from lwd.data.arena import ReplayArena
from lwd.data.sampling import BatchSampler, Prefetcher, Stratum
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.models.normalization import StateStatistics
from lwd.models.precision import Precision
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.ops.categorical import categorical_cross_entropy, two_hot
from lwd.recipes.bench_result import BenchEntry
from lwd.recipes.matrix_products import Floor, best_time_s, matrix_products, time_in_place_s, total_flops
from lwd.recipes.scene import GAMMA
from lwd.robots.sim.embodiments import STATE_EMBODIMENT
from lwd.types import Controller, Episode, EpisodeInfo, Outcome, Source

HORIZON = 5
FLOW_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class LearnerShape:
    """Sizes of an update; those that are not here are the scene recipe's."""

    depth: int
    width: int
    """Hidden layers of the action expert, the value head and both critic heads: depth x width."""
    batch_size: int = 256
    anchor_s: float | None = None
    """Seconds per update of the official QAM agent (JAX, both cores) at these hidden sizes, batch 256, chunks of 5,
    T = 10 and 2 critics, measured on this class of machine."""
    anchor_goal: float = 1.0
    """How many times as fast as the anchor we mean to be."""

    @property
    def name(self) -> str:
        return f"{self.depth}x{self.width}"


SHAPES = (
    LearnerShape(depth=2, width=256, anchor_s=0.046, anchor_goal=2.0),
    LearnerShape(depth=4, width=512, anchor_s=0.334, anchor_goal=1.6),
)


@dataclass(frozen=True, kw_only=True)
class LearnerSpeed:
    """One shape in one precision. Times are the fastest of their runs."""

    shape: LearnerShape
    precision: Precision
    value_s: float
    """What V alone needs: the target critic's Q, encoder, value head, forward and backward."""
    critic_s: float
    """The rest of DIVL's joint update: bootstrap values, both Q heads, optimiser, target network."""
    actor_s: float
    update_s: float
    """A whole update with its batch, which a thread has prepared meanwhile."""
    median_update_s: float
    flops: int
    floor_s: float
    """Time of the update's matrix products alone."""
    products_s: float
    """Time of the same products in the update itself, where their operands are not in the cache."""

    @property
    def floor_share(self) -> float:
        """1 would be an update that does nothing but its matrix products, with all operands in the cache."""
        return self.floor_s / self.update_s

    @property
    def anchor_ratio(self) -> float | None:
        return None if self.shape.anchor_s is None else self.shape.anchor_s / self.update_s


def measure_learner(shape: LearnerShape, precision: Precision, *, seconds: float) -> LearnerSpeed:
    """Measure full updates (value, critic and actor every time) for about `seconds`.

    Updates and bare matrix products take turns, so that a change of the machine's speed meets both.
    """
    algorithm = build_algorithm(shape, precision)
    sampler = build_sampler(shape.batch_size)
    batch = sampler.batch(0)
    algorithm.update(batch)  # the first update also measures Q's spread, every 50th does
    floor = Floor(matrix_products(lambda: algorithm.update(batch)))
    value_s = critic_s = actor_s = products_s = float("inf")
    updates_s: list[float] = []
    with Prefetcher(sampler) as prefetcher:
        deadline_s = time.monotonic() + seconds
        index = 0
        while not updates_s or time.monotonic() < deadline_s:
            floor.measure()
            value_s = min(value_s, best_time_s(lambda: _value_alone(algorithm, batch), 3))
            critic_s = min(critic_s, best_time_s(lambda: algorithm.update_critic(batch), 3))
            actor_s = min(actor_s, best_time_s(lambda: algorithm.update_actor(batch.observation), 3))
            products_s = min(products_s, *(time_in_place_s(lambda: algorithm.update(batch)) for _ in range(3)))
            for _ in range(5):
                started_s = time.perf_counter()
                algorithm.update(prefetcher.batch(index))
                updates_s.append(time.perf_counter() - started_s)
                index += 1
    return LearnerSpeed(
        shape=shape,
        precision=precision,
        value_s=value_s,
        critic_s=critic_s - value_s,
        actor_s=actor_s,
        update_s=min(updates_s),
        median_update_s=float(np.median(updates_s)),
        flops=total_flops(floor.products),
        floor_s=floor.time_s,
        products_s=products_s,
    )


def measure_sampling(*, batch_size: int = 256, seconds: float) -> float:
    """Return chunk transitions per second that one thread draws from an arena of 100 k steps."""
    sampler = build_sampler(batch_size, episodes=500)
    started_s, batches = time.perf_counter(), 0
    while batches == 0 or time.perf_counter() - started_s < seconds:
        sampler.batch(batches)
        batches += 1
    return batches * batch_size / (time.perf_counter() - started_s)


def build_algorithm(shape: LearnerShape, precision: Precision) -> LWD:
    """Build fresh networks with the scene's observations and an algorithm that trains all of them every update."""
    torch.manual_seed(0)
    size = STATE_EMBODIMENT.state_size
    statistics = StateStatistics(mean=(0.0,) * size, std=(1.0,) * size)
    expert = VLAConfig(horizon=HORIZON, expert_width=shape.width, expert_depth=shape.depth)
    heads = CriticConfig(width=shape.width, depth=shape.depth)
    policy, reference = (SmallVLA(STATE_EMBODIMENT, expert, statistics) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    critic = ValueCritic(STATE_EMBODIMENT, heads, statistics, HORIZON)
    config = LWDConfig(temperature="auto", flow_steps=FLOW_STEPS)
    algorithm = LWD(policy, reference, critic, config, torch.Generator().manual_seed(0))
    for network in (policy, reference, critic, algorithm.target_critic):
        network.precision = precision
    return algorithm


def build_sampler(batch_size: int, *, episodes: int = 50) -> BatchSampler:
    """Build a sampler over an arena of random episodes of 200 steps; speed does not depend on what they hold."""
    rng = np.random.default_rng(0)
    arena = ReplayArena(STATE_EMBODIMENT, horizon=HORIZON, gamma=GAMMA, embed=lambda _: rng.normal(size=EMBEDDING_SIZE))
    arena.add(_random_episodes(rng, episodes, steps=200))
    return BatchSampler(arena, [Stratum()], batch_size=batch_size, seed=0)


def bench_entries(speed: LearnerSpeed) -> dict[str, BenchEntry]:
    """Return what goes into the results file."""
    name = f"learner/{speed.shape.name}/{speed.precision}"
    rate, floor_rate = 1 / speed.update_s, 1 / speed.floor_s
    entries = {
        f"{name}/updates": BenchEntry(
            value=rate,
            unit="updates/s",
            baseline=f"its {speed.flops / 1e9:.2f} GFLOP at the rate of its own matrix-product shapes, "
            f"{speed.flops / speed.floor_s / 1e9:.0f} GFLOP/s: {floor_rate:.1f} updates/s",
            ratio=speed.floor_share,
        )
    }
    parts = {
        "value": speed.value_s,
        "critic": speed.critic_s,
        "actor": speed.actor_s,
        "products-in-place": speed.products_s,
    }
    for part, part_s in parts.items():
        entries[f"{name}/{part}"] = BenchEntry(
            value=part_s * 1e3, unit="ms", baseline="a whole update", ratio=part_s / speed.update_s
        )
    if speed.shape.anchor_s is not None and speed.anchor_ratio is not None:
        entries[f"{name}/speed-up"] = BenchEntry(
            value=speed.update_s * 1e3,
            unit="ms per update",
            baseline=f"official QAM agent (JAX, float32, both cores): {speed.shape.anchor_s * 1e3:.0f} ms",
            ratio=speed.anchor_ratio,
        )
    return entries


def _value_alone(algorithm: LWD, batch: TransitionBatch) -> None:
    critic, target = algorithm.critic, algorithm.target_critic
    chunk_BHA = critic.normalizer.action(batch.action_chunk_BHA)
    with torch.no_grad():
        q_bar_B = torch.minimum(*target.q(target.encode(batch.observation), chunk_BHA, batch.action_mask_BH))
    critic.zero_grad()
    logits_BK = critic.value_logits(critic.encode(batch.observation))
    loss = categorical_cross_entropy(logits_BK, two_hot(q_bar_B, critic.atoms_K)).mean()
    loss.backward()  # type: ignore[no-untyped-call]


def _random_episodes(rng: np.random.Generator, count: int, steps: int) -> Iterator[Episode]:
    size, actions = STATE_EMBODIMENT.state_size, STATE_EMBODIMENT.action_size
    for index in range(count):
        info = EpisodeInfo(
            episode_id=f"bench-{index}",
            robot_id="bench",
            embodiment=STATE_EMBODIMENT.name,
            task=f"task-{index % 8}",
            instruction=f"instruction-{index % 8}",
            source=Source.ROLLOUT,
            outcome=Outcome.SUCCESS if index % 2 else Outcome.TIME_LIMIT,
            policy_version=0,
            sub_step_scores=(),
            control_hz=STATE_EMBODIMENT.control_hz,
            seed=index,
            world="nominal",
            started_at_s=0.0,
            software_version="bench",
        )
        yield Episode(
            info=info,
            states_TS=rng.normal(size=(steps + 1, size)).astype(np.float32),
            actions_TA=rng.uniform(-1, 1, size=(steps, actions)).astype(np.float32),
            controllers_T=np.full(steps, Controller.POLICY, dtype=np.uint8),
        )
