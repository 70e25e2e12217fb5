"""Batches of tensors that the data room makes and the models and algorithms consume."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


def _parts(count: int, size: int | None) -> Iterator[slice]:
    for start in range(0, count, size or max(count, 1)):
        yield slice(start, start + (size or count))


@dataclass(frozen=True, kw_only=True)
class ObservationBatch:
    """B observations with their instructions, as tensors in physical units."""

    state_BS: Tensor
    """(B, S) float32."""
    instruction_BE: Tensor
    """(B, E) float32, sentence embeddings of the instructions."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """Camera name -> (B, height, width, 3) uint8."""

    @property
    def size(self) -> int:
        return self.state_BS.shape[0]

    def to(self, device: torch.device) -> "ObservationBatch":
        """Copy to a device."""
        return self._map(lambda tensor: tensor.to(device))

    def first(self, count: int | None) -> "ObservationBatch":
        """Return the first `count` observations, all of them if it is None."""
        return self._map(lambda tensor: tensor[:count])

    def rows(self, rows: Tensor | slice) -> "ObservationBatch":
        """Return the observations at the given indices."""
        return self._map(lambda tensor: tensor[rows])

    def split(self, size: int | None) -> "Iterator[ObservationBatch]":
        """Yield parts of at most `size` observations, in order; the whole if it is None."""
        for part in _parts(self.size, size):
            yield self.rows(part)

    def repeat(self, times: int) -> "ObservationBatch":
        """Return the batch `times` times over, (times * B, ...)."""
        return self._map(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "ObservationBatch":
        return ObservationBatch(
            state_BS=function(self.state_BS),
            instruction_BE=function(self.instruction_BE),
            images={name: function(image) for name, image in self.images.items()},
        )


@dataclass(frozen=True, kw_only=True)
class TransitionBatch:
    """B chunk transitions (s_t, a_t, r_t, s_{t+nH}) as DIVL and QAM consume them.

    Source: arXiv 2605.00416, section on the chunk-level replay; method.md sections 1 and 2.
    """

    observation: ObservationBatch
    """s_t."""
    action_chunk_BHA: Tensor
    """(B, H, A) executed actions in physical units; padded steps repeat the last executed action."""
    action_mask_BH: Tensor
    """(B, H) bool, False on padding after the end of the episode, or of its segment where a gap comes first."""
    human_BH: Tensor
    """(B, H) bool, True where a human's action was executed."""
    return_B: Tensor
    """(B,) float32, sum_{i<k} gamma^i r_{t+i} over the k real steps of the n-chunk window."""
    outcome_return_B: Tensor
    """(B,) float32, the return from this step to the episode's end: gamma^{k-1} with k steps left if it succeeded,
    else 0."""
    bootstrap_observation: ObservationBatch
    """s_{t+k}: the state after the window, or the last one before the episode's end or a gap inside it."""
    bootstrap_discount_B: Tensor
    """(B,) float32: gamma^k, and 0 where the episode ended (success, failure, time limit) inside the window."""
    task_B: Tensor
    """(B,) int64, index of the task in the arena's task list."""
    imitable_BH: Tensor
    """(B, H) bool, how far the chunk is worth imitating (`lwd.data.arena.imitable_steps`): its first steps, or none."""

    @property
    def size(self) -> int:
        return self.return_B.shape[0]

    def to(self, device: torch.device) -> "TransitionBatch":
        return TransitionBatch(
            observation=self.observation.to(device),
            action_chunk_BHA=self.action_chunk_BHA.to(device),
            action_mask_BH=self.action_mask_BH.to(device),
            human_BH=self.human_BH.to(device),
            return_B=self.return_B.to(device),
            outcome_return_B=self.outcome_return_B.to(device),
            bootstrap_observation=self.bootstrap_observation.to(device),
            bootstrap_discount_B=self.bootstrap_discount_B.to(device),
            task_B=self.task_B.to(device),
            imitable_BH=self.imitable_BH.to(device),
        )

    def imitable(self) -> "TransitionBatch":
        """Return the transitions that are worth imitating, masked as far as they are; there may be none."""
        part = self.rows(self.imitable_BH[:, 0].nonzero().squeeze(-1))
        return replace(part, action_mask_BH=part.action_mask_BH & part.imitable_BH)

    def split(self, size: int | None) -> "Iterator[TransitionBatch]":
        """Yield parts of at most `size` transitions, in order; the whole if it is None."""
        for part in _parts(self.size, size):
            yield self.rows(part)

    def rows(self, rows: Tensor | slice) -> "TransitionBatch":
        """Return the transitions at the given indices."""
        fields = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(
            self,
            observation=self.observation.rows(rows),
            bootstrap_observation=self.bootstrap_observation.rows(rows),
            **fields,
        )
