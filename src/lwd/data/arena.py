"""The replay arena: decoded episodes in flat arrays, and chunk transitions by index arithmetic.

Nothing but the executed steps is stored. Masks, rewards, n-step returns and discounts follow from where a
transition starts, how long its episode is and how it ended.
Shape suffixes besides those of `lwd.types`: R rows (T + 1 per episode), E episodes, I instructions.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwd.batch import ObservationBatch, TransitionBatch
from lwd.data.frames import decode_frames
from lwd.data.growable import GrowableArray
from lwd.data.steps import BoolArray, IntArray, acts_left, imitable_steps, segment_ends
from lwd.errors import ConfigError, EpisodeRejected, ShapeError
from lwd.types import ByteArray, Controller, Embodiment, Episode, EpisodeInfo, FloatArray, Outcome

_HUMAN = int(Controller.HUMAN)  # numpy compares with an enum's member slowly
OTHER_TASKS = "*"
NStep = int | Mapping[str, int]
"""Chunks in an n-step window: one number, or one for each task name and for OTHER_TASKS."""


@dataclass(frozen=True, kw_only=True)
class ArenaView:
    """The arena's content at one version; it does not change when episodes are added later."""

    version: int
    """Counts the changes of the arena's content."""
    infos: Sequence[EpisodeInfo]
    """The first E entries describe the E episodes (the list may already be longer)."""
    tasks: tuple[str, ...]
    first_row_E: IntArray
    steps_E: IntArray
    task_E: IntArray
    revoked_E: BoolArray
    success_E: BoolArray
    terminal_E: BoolArray
    instruction_E: IntArray
    embedding_IE: FloatArray
    states_RS: FloatArray
    actions_RA: FloatArray
    """An episode's row T has no action; it repeats the last one."""
    controllers_R: ByteArray
    imitable_R: BoolArray
    """`imitable_steps`, row by row."""
    segment_end_R: IntArray
    """Row of the last observation of each row's segment: the next gap, or the episode's last row."""
    acts_left_R: IntArray
    """Control steps that are made from each row to its episode's end."""
    episode_R: IntArray
    images: Mapping[str, ByteArray]
    """Camera name -> (R, height, width, 3)."""

    @property
    def num_episodes(self) -> int:
        return int(self.steps_E.shape[0])


class ReplayArena:
    """Grows by whole episodes and hands out chunk transitions that start at any step.

    One thread may add while others gather: every gather works on one `ArenaView`.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        *,
        horizon: int,
        gamma: float,
        embed: Callable[[str], npt.ArrayLike],
        tasks: Sequence[str] = (),
        initial_rows: int = 65_536,
        directory: Path | None = None,
    ) -> None:
        """Make an empty arena.

        Args:
            embodiment: of every episode; other episodes are rejected.
            horizon: H, control steps in a chunk.
            gamma: discount per control step, in (0, 1].
            embed: instruction -> (E,) sentence embedding; called once per distinct instruction.
            tasks: the first names of the task list; names not listed are appended as episodes bring them.
            initial_rows: rows reserved at the start; the capacity doubles when needed.
            directory: where to keep the rows in (nameless) files instead of memory. It is a cache: it
                disappears with the process, and the object store stays the only lasting copy.
        Raises:
            ConfigError: if horizon or gamma is out of range.
        """
        if horizon < 1:
            raise ConfigError(f"horizon is {horizon}; a chunk has at least one control step")
        if not 0 < gamma <= 1:
            raise ConfigError(f"gamma is {gamma}; the discount per control step lies in (0, 1]")
        self.embodiment = embodiment
        self.horizon = horizon
        self.gamma = gamma
        self._offset_H = np.arange(horizon)
        self._embed = embed
        self._lock = threading.Lock()
        self._infos: list[EpisodeInfo] = []
        self._index_of: dict[str, int] = {}
        self._tasks = list(tasks)
        self._instructions: dict[str, int] = {}
        self._embeddings: list[FloatArray] = []

        def rows_of(shape: tuple[int, ...]) -> GrowableArray[np.float32]:
            return GrowableArray(shape, np.float32, initial_rows=initial_rows, directory=directory)

        self._states = rows_of((embodiment.state_size,))
        self._actions = rows_of((embodiment.action_size,))
        self._controllers = GrowableArray((), np.uint8, initial_rows=initial_rows, directory=directory)
        self._imitable = GrowableArray((), np.bool_, initial_rows=initial_rows, directory=directory)
        self._segment_end = GrowableArray((), np.int64, initial_rows=initial_rows, directory=directory)
        self._acts_left = GrowableArray((), np.int64, initial_rows=initial_rows, directory=directory)
        self._episode_of_row = GrowableArray((), np.int64, initial_rows=initial_rows, directory=directory)
        self._images = {
            camera: GrowableArray((*size, 3), np.uint8, initial_rows=initial_rows, directory=directory)
            for camera, size in embodiment.cameras.items()
        }
        # One row per episode: first row, steps, task, instruction, success, terminal.
        self._table = GrowableArray((6,), np.int64, initial_rows=1024)
        self._revoked_E = np.zeros(0, dtype=np.bool_)
        self._view = self._build_view(version=0)

    @property
    def view(self) -> ArenaView:
        """The current content."""
        return self._view

    @property
    def version(self) -> int:
        """Counts the changes of the content; a batch is a function of seed, update index and this."""
        return self._view.version

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the order of `TransitionBatch.task_B`."""
        return self._view.tasks

    @property
    def num_episodes(self) -> int:
        """Episodes that can be sampled: added and not revoked."""
        return int((~self._view.revoked_E).sum())

    @property
    def num_steps(self) -> int:
        """Control steps of the episodes that can be sampled."""
        return int(self._view.steps_E[~self._view.revoked_E].sum())

    def add(self, episodes: Iterable[Episode]) -> int:
        """Decode and append episodes; all of them or, if one is rejected, none.

        An episode that is already there is left alone, so adding is idempotent. What was staged shows, too.

        Returns:
            the number of episodes that were new.
        Raises:
            EpisodeRejected: if an episode does not fit the embodiment.
            StoreError: if the arena's directory has no space left.
        """
        count = self.stage(episodes)
        self.publish()
        return count

    def stage(self, episodes: Iterable[Episode]) -> int:
        """Decode and append episodes as `add` does, without showing them: no batch changes until `publish`.

        May run in another thread than the one that samples.
        """
        with self._lock:
            rows, count, tasks = len(self._states), len(self._infos), len(self._tasks)
            try:
                for episode in episodes:
                    if episode.info.identity not in self._index_of:
                        self._append(episode)
            except BaseException:
                self._roll_back(rows, count, tasks)
                raise
            return len(self._infos) - count

    def revoke(self, identities: Iterable[str]) -> int:
        """Make the episodes ROBOT/ID unsampleable; their rows stay until the arena is rebuilt. Unknown ids are ignored.

        Returns:
            the number of episodes that were not revoked before.
        """
        return self.publish(revoked=identities)

    def publish(self, revoked: Iterable[str] = ()) -> int:
        """Show what was staged and hide what is revoked, in one change of the content.

        Returns:
            the number of episodes that are revoked now and were not before.
        """
        with self._lock:
            staged = len(self._infos) - self._revoked_E.shape[0]
            # A new array: views hold the old one.
            revoked_E = np.concatenate([self._revoked_E, np.zeros(staged, dtype=np.bool_)])
            revoked_E[[self._index_of[name] for name in set(revoked) if name in self._index_of]] = True
            changed = int(revoked_E.sum() - self._revoked_E.sum())
            if staged or changed:
                self._revoked_E = revoked_E
                self._view = self._build_view(version=self._view.version + 1)
            return changed

    def gather(self, start_rows_B: IntArray, n_step: NStep = 1, *, view: ArenaView | None = None) -> TransitionBatch:
        """Return the chunk transitions that start at the given rows.

        The window of n chunks is cut at the episode's end and at a gap. With k real steps in it: the return is
        gamma^{k-1} if a success ended inside it, else 0; the bootstrap observation is the one k steps later, which
        before a gap is the last one that was seen there; the discount is gamma^k, or 0 if a terminal outcome ended
        inside it. A truncated episode bootstraps.

        Args:
            start_rows_B: rows of first steps; row `first_row_E[e] + t` is step t < T of episode e.
            n_step: chunks in the window, for all or by task name.
            view: the content to read; the current one if not given.
        Raises:
            ShapeError: if a start is out of range, a gap or the row after an episode's last step.
            ConfigError: if `n_step` is below 1 or lacks a task.
        Source: arXiv 2605.00416, chunk-level replay and the n-step target of DIVL.
        """
        view = self._view if view is None else view
        start_B = np.asarray(start_rows_B, dtype=np.int64)
        if start_B.size and (start_B.min() < 0 or start_B.max() >= view.episode_R.shape[0]):
            raise ShapeError(f"start rows must lie in [0, {view.episode_R.shape[0]})")
        # take() instead of brackets: half the cost for whole rows, and this is the learner's inner loop.
        episode_B = view.episode_R.take(start_B)
        task_B = view.task_E.take(episode_B)
        end_row_B = view.segment_end_R.take(start_B)
        left_B = end_row_B - start_B
        if start_B.size and left_B.min() < 1:
            raise ShapeError("a start row is the last observation of an episode or before a gap; no action followed")

        chunk_BH = start_B[:, None] + self._offset_H
        mask_BH = chunk_BH < end_row_B[:, None]
        np.minimum(chunk_BH, end_row_B[:, None] - 1, out=chunk_BH)

        window_B = self.horizon * _window_chunks(n_step, view.tasks, task_B)
        steps_B = np.minimum(window_B, left_B)
        last_row_B = view.first_row_E.take(episode_B) + view.steps_E.take(episode_B)
        ended_B = (left_B <= window_B) & (end_row_B == last_row_B)
        succeeds_B = view.success_E.take(episode_B)
        success_B = ended_B & succeeds_B
        terminated_B = ended_B & view.terminal_E.take(episode_B)
        return_B = np.where(success_B, np.power(self.gamma, steps_B - 1), 0)
        outcome_return_B = np.where(succeeds_B, np.power(self.gamma, view.acts_left_R.take(start_B) - 1), 0)
        discount_B = np.where(terminated_B, 0, np.power(self.gamma, steps_B))

        instruction_BE = torch.from_numpy(view.embedding_IE.take(view.instruction_E.take(episode_B), axis=0))
        return TransitionBatch(
            observation=_observation(view, start_B, instruction_BE),
            action_chunk_BHA=torch.from_numpy(view.actions_RA.take(chunk_BH, axis=0)),
            action_mask_BH=torch.from_numpy(mask_BH),
            human_BH=torch.from_numpy((view.controllers_R.take(chunk_BH) == _HUMAN) & mask_BH),
            return_B=torch.from_numpy(return_B.astype(np.float32)),
            outcome_return_B=torch.from_numpy(outcome_return_B.astype(np.float32)),
            bootstrap_observation=_observation(view, start_B + steps_B, instruction_BE),
            bootstrap_discount_B=torch.from_numpy(discount_B.astype(np.float32)),
            task_B=torch.from_numpy(task_B),
            # As far as it goes on without a step that is not: what a policy did after a correction is not imitated.
            imitable_BH=torch.from_numpy(np.logical_and.accumulate(view.imitable_R.take(chunk_BH) & mask_BH, axis=1)),
        )

    def close(self) -> None:
        """Release the files, if any."""
        for array in self._by_row():
            array.close()

    def _by_row(self) -> "Iterator[GrowableArray[Any]]":
        """Everything that has one entry per row."""
        yield from (self._states, self._actions, self._controllers, self._imitable)
        yield from (self._segment_end, self._acts_left, self._episode_of_row)
        yield from self._images.values()

    def _append(self, episode: Episode) -> None:
        self._check(episode)
        info, index = episode.info, len(self._infos)
        first_row = len(self._states)
        self._states.append(episode.states_TS)
        self._actions.append(np.concatenate([episode.actions_TA, episode.actions_TA[-1:]]))
        self._controllers.append(np.concatenate([episode.controllers_T, episode.controllers_T[-1:]]))
        imitable_T = imitable_steps(info, episode.controllers_T)
        self._imitable.append(np.concatenate([imitable_T, imitable_T[-1:]]))
        self._segment_end.append(first_row + segment_ends(episode.controllers_T))
        self._acts_left.append(acts_left(episode.controllers_T))
        self._episode_of_row.append(np.full(episode.steps + 1, index))
        for camera, images in self._images.items():
            images.append(decode_frames(episode, camera, self.embodiment.cameras[camera]))
        if info.task not in self._tasks:
            self._tasks.append(info.task)
        self._table.append(
            [
                [
                    first_row,
                    episode.steps,
                    self._tasks.index(info.task),
                    self._instruction_index(info.instruction),
                    info.outcome is Outcome.SUCCESS,
                    info.outcome.terminal,
                ]
            ]
        )
        self._infos.append(info)
        self._index_of[info.identity] = index

    def _instruction_index(self, instruction: str) -> int:
        if instruction not in self._instructions:
            embedding = np.asarray(self._embed(instruction), dtype=np.float32)
            if embedding.ndim != 1 or (self._embeddings and embedding.shape != self._embeddings[0].shape):
                raise ShapeError(f"embed({instruction!r}) has shape {embedding.shape}; expected one vector size")
            self._embeddings.append(embedding)
            self._instructions[instruction] = len(self._instructions)
        return self._instructions[instruction]

    def _roll_back(self, rows: int, count: int, tasks: int) -> None:
        for info in self._infos[count:]:
            del self._index_of[info.identity]
        del self._infos[count:]
        del self._tasks[tasks:]
        for array in self._by_row():
            array.truncate(rows)
        self._table.truncate(count)

    def _check(self, episode: Episode) -> None:
        """Guard the arena's own invariants; the coordinator has already validated committed episodes."""
        name, steps = episode.info.identity, episode.steps
        if episode.info.embodiment != self.embodiment.name:
            raise EpisodeRejected(
                f"episode {name} is of embodiment {episode.info.embodiment!r}; "
                f"this arena holds {self.embodiment.name!r}"
            )
        expected = {
            "states_TS": (episode.states_TS.shape, (steps + 1, self.embodiment.state_size)),
            "actions_TA": (episode.actions_TA.shape, (steps, self.embodiment.action_size)),
            "controllers_T": (episode.controllers_T.shape, (steps,)),
        }
        for field, (shape, wanted) in expected.items():
            if shape != wanted:
                raise EpisodeRejected(f"episode {name}: {field} has shape {shape}; expected {wanted}")
        if steps < 1:
            raise EpisodeRejected(f"episode {name} has no step; record at least one action")

    def _build_view(self, *, version: int) -> ArenaView:
        table = self._table.rows
        return ArenaView(
            version=version,
            infos=self._infos,
            tasks=tuple(self._tasks),
            first_row_E=table[:, 0].copy(),
            steps_E=table[:, 1].copy(),
            task_E=table[:, 2].copy(),
            instruction_E=table[:, 3].copy(),
            success_E=table[:, 4].astype(np.bool_),
            terminal_E=table[:, 5].astype(np.bool_),
            revoked_E=self._revoked_E,
            embedding_IE=np.stack(self._embeddings) if self._embeddings else np.zeros((0, 0), np.float32),
            states_RS=self._states.rows,
            actions_RA=self._actions.rows,
            controllers_R=self._controllers.rows,
            imitable_R=self._imitable.rows,
            segment_end_R=self._segment_end.rows,
            acts_left_R=self._acts_left.rows,
            episode_R=self._episode_of_row.rows,
            images={camera: images.rows for camera, images in self._images.items()},
        )


def _window_chunks(n_step: NStep, tasks: tuple[str, ...], task_B: IntArray) -> IntArray | int:
    if isinstance(n_step, int):
        if n_step < 1:
            raise ConfigError(f"n_step is {n_step}; a window has at least one chunk")
        return n_step
    other = n_step.get(OTHER_TASKS, 0)
    chunks = np.array([n_step.get(name, other) for name in tasks], dtype=np.int64).take(task_B)
    if chunks.min(initial=1) < 1:
        wrong = sorted({tasks[task] for task in task_B[chunks < 1]})
        raise ConfigError(f"n_step must give at least one chunk to every task; wrong for {', '.join(wrong)}")
    return chunks


def _observation(view: ArenaView, rows_B: IntArray, instruction_BE: torch.Tensor) -> ObservationBatch:
    return ObservationBatch(
        state_BS=torch.from_numpy(view.states_RS.take(rows_B, axis=0)),
        instruction_BE=instruction_BE,
        images={camera: torch.from_numpy(images.take(rows_B, axis=0)) for camera, images in view.images.items()},
    )
