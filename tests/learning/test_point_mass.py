"""Does it learn? On a point mass: SFT on clumsy demonstrations, then LWD offline makes it faster and surer."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.sft import SFT, SFTConfig
from lwd.data.arena import ReplayArena
from lwd.data.sampling import BatchSampler, Stratum, from_sources
from lwd.evaluation.lockstep import Trial, roll_out
from lwd.learner.loop import train
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.session import EpisodeSession
from lwd.types import (
    Command,
    Embodiment,
    Episode,
    FloatArray,
    Intent,
    Observation,
    Outcome,
    RobotView,
    Source,
    StepResult,
    Task,
    TokenSpec,
)

PERIOD_S = 0.05
REACHED_M = 0.12
EMBODIMENT = Embodiment(
    name="reaching-point",
    control_hz=1 / PERIOD_S,
    state_tokens=(
        TokenSpec(name="position", size=2),
        TokenSpec(name="velocity", size=2),
        TokenSpec(name="goal", size=2),
    ),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
)
TASK = Task(
    name="reach",
    instructions=("reach the goal",),
    heldout_instructions=("reach the goal",),
    sub_steps=("at the goal",),
    time_limit=40,
    long_horizon=False,
)
GAMMA = 0.97
EVALUATION_SEED = 10**6


class PointMass:
    """x'' = 6 a - 1.5 x' in the plane; the goal lies 1 m away; success is standing near it, slowly."""

    embodiment = EMBODIMENT

    def reset(self, task: Task, seed: int) -> Observation:
        angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        self._goal = np.array([np.cos(angle), np.sin(angle)])
        self._position, self._velocity, self._step = np.zeros(2), np.zeros(2), 0
        return self._observe()

    def step(self, action: FloatArray) -> StepResult:
        self._velocity = self._velocity + PERIOD_S * (6 * np.clip(action, -1, 1) - 1.5 * self._velocity)
        self._position = self._position + PERIOD_S * self._velocity
        self._step += 1
        arrived = np.linalg.norm(self._goal - self._position) < REACHED_M and np.linalg.norm(self._velocity) < 0.5
        outcome = Outcome.SUCCESS if arrived else Outcome.TIME_LIMIT if self._step >= TASK.time_limit else None
        return StepResult(observation=self._observe(), outcome=outcome, sub_step_scores=(float(arrived),))

    def hold(self) -> None:
        pass

    def privileged(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        pass

    def _observe(self) -> Observation:
        return Observation(state=np.concatenate([self._position, self._velocity, self._goal]).astype(np.float32))


class ClumsyDriver:
    """Steers to the goal with a random haste, pulled aside by a random drift, and with shaking hands."""

    def begin(self, view: RobotView, seed: int) -> None:
        self._random = np.random.default_rng([seed, 1])
        self._haste = self._random.uniform(0.3, 1.6)
        self._drift = self._random.normal(size=2) * 0.35

    def poll(self, view: RobotView) -> Command:
        position, velocity, goal = np.split(view.observation.state, 3)
        wish = self._haste * (2.5 * (goal - position) - 1.2 * velocity) + self._drift
        action = np.clip(wish + 0.3 * self._random.normal(size=2), -1, 1)
        return Command(intent=Intent.TAKE_OVER, action=action.astype(np.float32))


def drive(count: int) -> list[Episode]:
    """Episodes of the clumsy driver: the successful ones are demonstrations, the others rollouts."""
    episodes = []
    for seed in range(count):
        session = EpisodeSession(
            PointMass(), TASK, "reach the goal", seed=seed, robot_id="r", source=Source.ROLLOUT, policy_version=-1,
            world="nominal", operator=ClumsyDriver(), episode_id=f"e{seed}",
        )  # fmt: skip
        while not session.done:
            session.step()
        episodes.append(session.episode())
    return episodes


@dataclass(frozen=True)
class Score:
    success: float
    discounted_return: float
    """Mean of gamma^(steps - 1) over episodes, 0 for failures: what LWD maximises."""


def evaluate(policy: SmallVLA, episodes: int = 200) -> Score:
    trials = (
        Trial(task=TASK, index=index, seed=EVALUATION_SEED + index, instruction="reach the goal")
        for index in range(episodes)
    )
    robots = [PointMass() for _ in range(50)]
    results = list(roll_out(policy, trials, robots, batch_size=50, world="nominal"))
    returns = [GAMMA ** (r.steps - 1) if r.outcome is Outcome.SUCCESS else 0.0 for r in results]
    return Score(float(np.mean([r > 0 for r in returns])), float(np.mean(returns)))


@pytest.mark.learning
def test_lwd_offline_improves_on_sft() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    embedding = np.full(EMBEDDING_SIZE, 0.1, np.float32)
    arena = ReplayArena(EMBODIMENT, horizon=5, gamma=GAMMA, embed=lambda _: embedding, tasks=("reach",))
    episodes = drive(300)
    arena.add(episodes)
    solved = np.mean([episode.info.outcome is Outcome.SUCCESS for episode in episodes])
    assert 0.3 < solved < 0.9  # both kinds are there

    statistics = StateStatistics.of(np.asarray(arena.view.states_RS))
    sizes = VLAConfig(horizon=5, token_width=16, context_size=64, expert_width=64, expert_depth=2, flow_steps=10)
    policy = SmallVLA(EMBODIMENT, sizes, statistics, InstructionEncoder({"reach the goal": embedding}))
    sft = SFT(policy, SFTConfig(learning_rate=1e-3, total_updates=1500), torch.Generator().manual_seed(0))
    everything = [Stratum(episodes=from_sources(Source.ROLLOUT))]
    demonstrations = [Stratum(episodes=lambda info: info.outcome is Outcome.SUCCESS)]
    for _ in train(sft, BatchSampler(arena, demonstrations, batch_size=128, seed=0), start=0, stop=1500):
        pass
    reference = sft.averaged_policy
    cloned = evaluate(reference)

    critic = ValueCritic(
        EMBODIMENT,
        CriticConfig(token_width=16, readout_size=64, action_width=32, width=64, num_atoms=101),
        statistics,
        horizon=5,
    )
    config = LWDConfig(
        temperature="auto",
        auto_temperature_fraction=0.5,
        rollout="policy",
        policy_polyak_rate=0.02,
        critic_loss_weight=20.0,
        quantile_low=0.1,
        critic_learning_rate=1e-3,
        actor_learning_rate=1e-3,
        actor_every=2,
        critic_warmup_updates=600,
        polyak_rate=0.01,
    )
    lwd = LWD(deepcopy(reference), deepcopy(reference), critic, config, torch.Generator().manual_seed(0))
    for _ in train(lwd, BatchSampler(arena, everything, batch_size=128, seed=1), start=0, stop=2000):
        pass
    learned = evaluate(lwd.averaged_policy)
    print(f"driver {solved:.2f}, SFT {cloned}, LWD {learned}")
    assert learned.discounted_return > cloned.discounted_return + 0.05
    assert learned.success >= cloned.success
