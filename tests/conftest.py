"""Small real networks and batches that several test modules share."""

import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lwd.batch import ObservationBatch, TransitionBatch
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment, TokenSpec

from .seaweedfs import SeaweedServer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A real S3 server that stays up; a test that kills one starts its own."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweedfs"))
    try:
        server.start()
        yield server
    finally:
        # At once: it takes its time to stop in order, for data that nobody needs any more.
        server.kill()


@pytest.fixture
def keep_signals() -> Iterator[None]:
    """For what installs handlers of its own, as a process's entry does."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def embodiment() -> Embodiment:
    return Embodiment(
        name="toy",
        control_hz=10.0,
        state_tokens=(TokenSpec(name="proprio", size=4), TokenSpec(name="object", size=3)),
        action_low=(-1.0, -2.0),
        action_high=(1.0, 4.0),
    )


@pytest.fixture
def statistics(embodiment: Embodiment) -> StateStatistics:
    size = embodiment.state_size
    return StateStatistics(mean=(0.1,) * size, std=(1.5,) * size)


@pytest.fixture
def policy(embodiment: Embodiment, statistics: StateStatistics) -> SmallVLA:
    torch.manual_seed(0)
    config = VLAConfig(horizon=3, token_width=8, context_size=16, expert_width=32, expert_depth=2)
    return SmallVLA(embodiment, config, statistics)


@pytest.fixture
def critic(embodiment: Embodiment, statistics: StateStatistics) -> ValueCritic:
    torch.manual_seed(1)
    config = CriticConfig(token_width=8, readout_size=16, action_width=8, pooling_heads=2, width=32, depth=2)
    return ValueCritic(embodiment, config, statistics, horizon=3)


@pytest.fixture
def make_batch(embodiment: Embodiment):
    def build(batch_size: int = 16, seed: int = 0) -> TransitionBatch:
        rng = np.random.default_rng(seed)

        def observation() -> ObservationBatch:
            return ObservationBatch(
                state_BS=torch.tensor(rng.normal(size=(batch_size, embodiment.state_size)), dtype=torch.float32),
                instruction_BE=torch.tensor(rng.normal(size=(batch_size, EMBEDDING_SIZE)), dtype=torch.float32),
            )

        low, high = np.array(embodiment.action_low), np.array(embodiment.action_high)
        chunk = rng.uniform(low, high, size=(batch_size, 3, 2))
        mask = np.arange(3) < rng.integers(1, 4, size=(batch_size, 1))
        return TransitionBatch(
            observation=observation(),
            action_chunk_BHA=torch.tensor(chunk, dtype=torch.float32),
            action_mask_BH=torch.tensor(mask),
            human_BH=torch.zeros(batch_size, 3, dtype=torch.bool),
            return_B=torch.tensor(rng.integers(0, 2, batch_size), dtype=torch.float32),
            outcome_return_B=torch.tensor(np.linspace(0, 1, batch_size), dtype=torch.float32),
            bootstrap_observation=observation(),
            bootstrap_discount_B=torch.tensor(rng.choice([0.0, 0.97], batch_size), dtype=torch.float32),
            task_B=torch.zeros(batch_size, dtype=torch.int64),
            imitable_BH=torch.tensor((rng.random((batch_size, 1)) < 0.7) & mask),
        )

    return build
