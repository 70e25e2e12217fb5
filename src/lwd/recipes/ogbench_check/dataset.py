"""Chunk transitions from play data under the benchmark's own reward, as batches of the learner."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lwd.batch import ObservationBatch, TransitionBatch
from lwd.errors import ConfigError
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.recipes.ogbench_check.play_data import Arrays, BenchmarkEnv
from lwd.types import FloatArray

TASK = 2
SUB_GOALS: dict[BenchmarkEnv, int] = {"scene": 1, "cube-double": 2}
"""The most that is unmet at a step under the reward in use: the published `scene` figures are for its sparse form,
-1 until everything is done, those of `cube-double` for minus the number of cubes that are not in place."""


def environment_id(env: BenchmarkEnv) -> str:
    """Return the name of the benchmark's task."""
    return f"{env}-play-singletask-task{TASK}-v0"


def load_play_data(env: BenchmarkEnv, paths: Sequence[Path]) -> Arrays:
    """Read shards and add the task's rewards and masks, by the package's own relabelling.

    Returns:
        OGBench's arrays with rewards (N,) and masks (N,), 0 where the task is done.
    Raises:
        ConfigError: if there is no shard.
    """
    import ogbench
    from ogbench.relabel_utils import relabel_dataset

    import lwd.robots.sim.simulator  # noqa: F401 - chooses MuJoCo's OpenGL before MuJoCo is imported

    if not paths:
        raise ConfigError("paths is empty; make at least one shard of play data")
    shards = [dict(np.load(path)) for path in paths]
    data: Arrays = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    simulator = ogbench.make_env_and_datasets(environment_id(env), env_only=True)
    try:
        relabel_dataset(environment_id(env), simulator, data)
    finally:
        simulator.close()
    if env == "scene":
        data["rewards"] = -(data["rewards"] != 0.0).astype(np.float32)
    return data


class PlayBatches:
    """Chunk transitions, drawn uniformly; a batch is a function of seed and update.

    Rewards are scaled by 1 - gamma, so that values lie in [-SUB_GOALS, 0] whatever the discount.
    """

    def __init__(self, data: Arrays, *, horizon: int, gamma: float, batch_size: int, seed: int) -> None:
        """
        Args:
            data: of `load_play_data`.
        Raises:
            ConfigError: if no episode is longer than a chunk.
        """
        self._data, self._horizon, self._gamma = data, horizon, gamma
        self._batch_size, self._seed = batch_size, seed
        last_N = np.flatnonzero(data["terminals"])
        end_of_row = np.repeat(last_N, np.diff(np.append(-1, last_N)))
        rows = np.arange(end_of_row.size)
        # The observation after the chunk must be of the same episode; the last step's successor is not recorded.
        self._starts = rows[rows + horizon <= end_of_row]
        if not self._starts.size:
            raise ConfigError(f"no episode has more than horizon = {horizon} steps")

    @property
    def states(self) -> FloatArray:
        """All observations (N, S)."""
        return self._data["observations"]

    def batch(self, update_index: int) -> TransitionBatch:
        """Return the batch of an update."""
        rng = np.random.default_rng([self._seed, update_index])
        start_B = self._starts[rng.integers(0, self._starts.size, self._batch_size)]
        return self.gather(start_B)

    def gather(self, start_B: npt.NDArray[np.int64]) -> TransitionBatch:
        """Return the chunk transitions that start at rows (B,)."""
        data, offsets_H = self._data, np.arange(self._horizon)
        chunk_BH = start_B[:, None] + offsets_H
        discounts_H = self._gamma**offsets_H
        return_B = (1 - self._gamma) * (data["rewards"][chunk_BH] * discounts_H).sum(axis=1)
        discount_B = self._gamma**self._horizon * data["masks"][chunk_BH].min(axis=1)
        size = start_B.size
        return_B32 = torch.from_numpy(return_B.astype(np.float32))
        return TransitionBatch(
            observation=self._observation(start_B),
            action_chunk_BHA=torch.from_numpy(data["actions"][chunk_BH]),
            action_mask_BH=torch.ones(size, self._horizon, dtype=torch.bool),
            human_BH=torch.zeros(size, self._horizon, dtype=torch.bool),
            return_B=return_B32,
            # Play has no outcome; nothing here learns from one.
            outcome_return_B=torch.zeros_like(return_B32),
            bootstrap_observation=self._observation(start_B + self._horizon),
            bootstrap_discount_B=torch.from_numpy(discount_B.astype(np.float32)),
            task_B=torch.zeros(size, dtype=torch.int64),
            imitable_BH=torch.ones(size, self._horizon, dtype=torch.bool),
        )

    def _observation(self, rows_B: npt.NDArray[np.int64]) -> ObservationBatch:
        # One task, no words: the instruction is a constant.
        return ObservationBatch(
            state_BS=torch.from_numpy(self._data["observations"][rows_B]),
            instruction_BE=torch.zeros(rows_B.size, EMBEDDING_SIZE),
        )
