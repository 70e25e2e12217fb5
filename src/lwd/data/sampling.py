"""Which transitions a batch holds: strata of episodes, tasks weighted by size, repeatable draws.

A batch is a function of the seed, the arena's content and the update's index. The order in which episodes
arrived does not matter, so a resumed learner draws what the interrupted one would have drawn.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
import torch

from lwd.batch import TransitionBatch
from lwd.data.arena import ArenaView, NStep, ReplayArena
from lwd.data.growable import GrowableArray
from lwd.data.steps import BoolArray, IntArray, acted_steps
from lwd.errors import ConfigError, ShapeError
from lwd.types import ByteArray, Controller, EpisodeInfo, Outcome, Source

EpisodeFilter = Callable[[EpisodeInfo], bool]
StepFilter = Callable[[EpisodeInfo, ByteArray], BoolArray]
"""(episode, controllers_T) -> mask_T of the steps at which a transition may start."""


def every_episode(info: EpisodeInfo) -> bool:
    """Accept all episodes."""
    return True


def from_sources(*sources: Source) -> EpisodeFilter:
    """Accept the episodes that come from one of `sources`."""
    accepted = frozenset(sources)
    return lambda info: info.source in accepted


def successes(info: EpisodeInfo) -> bool:
    """Accept successful episodes."""
    return info.outcome is Outcome.SUCCESS


def human_steps(info: EpisodeInfo, controllers_T: ByteArray) -> BoolArray:
    """Accept the steps at which a human acted."""
    return np.equal(controllers_T, Controller.HUMAN)


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """A part of every batch and the episodes it is drawn from."""

    fraction: float = 1.0
    """Share of the batch, relative to the other strata's."""
    episodes: EpisodeFilter = every_episode
    steps: StepFilter | None = None
    """Narrows the steps at which transitions may start; all of them if None."""
    unlabelled: bool = False
    """Whether UNLABELLED episodes take part: for imitation alone, since nothing is known of their reward."""
    task_exponent: float = 0.5
    """A task is drawn in proportion to (its steps)^exponent: 1 draws steps alike, 0 draws tasks alike."""


class BatchSampler:
    """Draws batches of chunk transitions from the strata of an arena."""

    def __init__(
        self,
        arena: ReplayArena,
        strata: Sequence[Stratum],
        *,
        batch_size: int,
        n_step: NStep = 1,
        instruction_noise: float = 0.0,
        seed: int,
    ) -> None:
        """Prepare to sample.

        Args:
            strata: their fractions are normalised. A stratum that is empty so far leaves its share to the
                others.
            batch_size: B.
            n_step: chunks in the n-step window, for all or by task name.
            instruction_noise: standard deviation of Gaussian noise on the instruction embeddings (whose entries are
                about 1): a few paraphrases are points in a large space, and a network fitted to the points alone
                does not follow a wording between them.
            seed: processes that train together need different ones.
        Raises:
            ConfigError: without strata, with a fraction that is not positive or a batch size below 1.
        """
        if not strata or any(stratum.fraction <= 0 for stratum in strata):
            raise ConfigError("a sampler needs strata, each with a positive fraction")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; a batch has at least one transition")
        self.arena = arena
        self.batch_size = batch_size
        self._n_step = n_step
        self._instruction_noise = instruction_noise
        self._seed = seed
        self._indices = [_StratumIndex(stratum) for stratum in strata]
        self._lock = threading.Lock()

    def batch(self, update_index: int) -> TransitionBatch:
        """Return the batch of an update; the same content and index give the same batch.

        Raises:
            ConfigError: if no stratum has a transition yet.
        """
        return self.draw(update_index)[1]

    def draw(self, update_index: int) -> tuple[int, TransitionBatch]:
        """Return the version of the arena that was drawn from, and the batch."""
        with self._lock:
            view = self.arena.view
            for index in self._indices:
                index.refresh(view)
            rng = np.random.default_rng([self._seed, update_index])
            rows_B = np.concatenate(
                [index.draw(count, rng) for index, count in zip(self._indices, self._counts(), strict=True) if count]
            )
        # Shuffled, so that a part of the batch (QAM uses half of it) holds every stratum.
        rows_B = rows_B[rng.permutation(rows_B.shape[0])]
        batch = self.arena.gather(rows_B, self._n_step, view=view)
        if self._instruction_noise > 0:
            batch = self._with_noise(batch, rng)
        return view.version, batch

    def _with_noise(self, batch: TransitionBatch, rng: np.random.Generator) -> TransitionBatch:
        """Move each instruction a little, alike at both ends of its transition."""
        clean_BE = batch.observation.instruction_BE
        noise_BE = torch.from_numpy(rng.standard_normal(clean_BE.shape, dtype=np.float32))
        noisy_BE = clean_BE + self._instruction_noise * noise_BE
        return replace(
            batch,
            observation=replace(batch.observation, instruction_BE=noisy_BE),
            bootstrap_observation=replace(batch.bootstrap_observation, instruction_BE=noisy_BE),
        )

    def _counts(self) -> IntArray:
        """Split the batch over the strata by largest remainder."""
        share = np.array([index.stratum.fraction if index.size else 0.0 for index in self._indices])
        if share.sum() == 0:
            raise ConfigError("no episode of the arena fits any stratum; add episodes before sampling")
        exact = share / share.sum() * self.batch_size
        counts: IntArray = np.floor(exact).astype(np.int64)
        largest = np.argsort(counts - exact, kind="stable")
        counts[largest[: self.batch_size - counts.sum()]] += 1
        return counts


class _StratumIndex:
    """The start rows of one stratum, grouped by task; refreshed for the new episodes only."""

    def __init__(self, stratum: Stratum) -> None:
        self.stratum = stratum
        self.size = 0
        self._version = -1
        # Per episode: number of start rows and where their list begins in _rows (-1: all its rows).
        self._count_E = GrowableArray((), np.int64, initial_rows=1024)
        self._list_E = GrowableArray((), np.int64, initial_rows=1024)
        self._id_E: list[str] = []
        self._robot_E: list[str] = []
        self._rows = GrowableArray((), np.int64, initial_rows=1024)

    def refresh(self, view: ArenaView) -> None:
        """Bring the index to the view's content."""
        if view.version == self._version:
            return
        for episode in range(len(self._id_E), view.num_episodes):
            self._admit(view, episode)
        count_E = np.where(view.revoked_E, 0, self._count_E.rows)
        # Sorted by task name, episode id, robot: no trace of the order of arrival.
        rank_of_task = np.argsort(np.argsort(np.array(view.tasks, dtype=np.str_)))
        chosen = np.flatnonzero(count_E)
        id_E, robot_E = (np.array(names, dtype=np.str_)[chosen] for names in (self._id_E, self._robot_E))
        order = chosen[np.lexsort((robot_E, id_E, rank_of_task[view.task_E[chosen]]))]
        self._end_E = np.cumsum(count_E[order])
        self._first_row_E = view.first_row_E[order]
        self._first_list_E = self._list_E.rows[order]
        self._any_listed = bool((self._first_list_E >= 0).any())
        self._begin_E = self._end_E - count_E[order]
        self.size = int(self._end_E[-1]) if order.size else 0
        tasks, first = np.unique(rank_of_task[view.task_E[order]], return_index=True)
        self._task_begin = self._begin_E[first]
        self._task_size = np.diff(np.append(self._task_begin, self.size))
        weight = self._task_size.astype(np.float64) ** self.stratum.task_exponent
        self._task_cdf = np.cumsum(weight) / weight.sum() if tasks.size else weight
        self._version = view.version

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Draw start rows with replacement: first the task, then one of its steps."""
        # Methods rather than numpy's functions: half the cost, and this is the learner's inner loop.
        task = self._task_cdf.searchsorted(rng.random(count), side="right")
        np.minimum(task, len(self._task_cdf) - 1, out=task)
        position = self._task_begin[task] + rng.integers(0, self._task_size[task])
        episode = self._end_E.searchsorted(position, side="right")
        offset = position - self._begin_E[episode]
        rows: IntArray = self._first_row_E[episode] + offset
        if self._any_listed:
            first_list = self._first_list_E[episode]
            listed = np.flatnonzero(first_list >= 0)
            rows[listed] = self._rows.rows[first_list[listed] + offset[listed]]
        return rows

    def _admit(self, view: ArenaView, episode: int) -> None:
        info, steps = view.infos[episode], int(view.steps_E[episode])
        first_row = int(view.first_row_E[episode])
        admitted = self.stratum.episodes(info) and (self.stratum.unlabelled or info.outcome is not Outcome.UNLABELLED)
        count, listed = (steps, -1) if admitted else (0, -1)
        if count:
            controllers_T = view.controllers_R[first_row : first_row + steps]
            mask_T = acted_steps(controllers_T)
            if self.stratum.steps is not None:
                wanted_T = self.stratum.steps(info, controllers_T)
                if wanted_T.shape != (steps,):
                    raise ShapeError(f"the step filter returned shape {wanted_T.shape}; expected ({steps},)")
                mask_T = mask_T & wanted_T
            count = int(mask_T.sum())
            if count < steps:
                listed = len(self._rows)
                self._rows.append(first_row + np.flatnonzero(mask_T))
        self._count_E.append([count])
        self._list_E.append([listed])
        self._id_E.append(info.episode_id)
        self._robot_E.append(info.robot_id)


class Prefetcher:
    """Prepares the next batches in a thread while the learner computes; the sequence stays exactly the same.

    A batch that was drawn before the arena changed is drawn again, so that it depends on the content at the
    moment it is asked for and not on how far the thread had come.
    """

    def __init__(self, sampler: BatchSampler, *, depth: int = 2) -> None:
        """Keep up to `depth` batches ready.

        Raises:
            ConfigError: if depth is below 1.
        """
        if depth < 1:
            raise ConfigError(f"depth is {depth}; prefetch at least one batch")
        self._sampler = sampler
        self._depth = depth
        self._pending: dict[int, Future[tuple[int, TransitionBatch]]] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")

    def batch(self, update_index: int) -> TransitionBatch:
        """Return `sampler.batch(update_index)`, ready beforehand when indices are asked for in order."""
        wanted = range(update_index, update_index + self._depth + 1)
        for index in [index for index in self._pending if index not in wanted]:
            self._pending.pop(index).cancel()
        for index in wanted:
            if index not in self._pending:
                self._pending[index] = self._pool.submit(self._sampler.draw, index)
        version, batch = self._pending.pop(update_index).result()
        if version == self._sampler.arena.version:
            return batch
        return self._sampler.batch(update_index)

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
