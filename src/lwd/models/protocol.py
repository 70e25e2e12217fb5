"""What robots and evaluations ask of a policy; what training asks of it is in `lwd.models.flow_policy`."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from lwd.types import Embodiment, FloatArray, Observation


class Policy(Protocol):
    """What robots and evaluations need."""

    embodiment: Embodiment
    horizon: int

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of one chunk's noise."""

    def act(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        *,
        generator: torch.Generator | None = None,
        noise_BHA: FloatArray | None = None,
    ) -> FloatArray:
        """Sample one chunk per robot: (B, H, A) in physical units, within the embodiment's limits.

        Args:
            generator: draws the noise where none is given.
            noise_BHA: (B, *noise_shape) standard normal, for results that do not depend on who else is in the batch.
        """


@runtime_checkable
class ContinuingPolicy(Policy, Protocol):
    """A policy whose next chunk can go on from the present one, as robots in real time need it."""

    def continue_chunk(
        self,
        observation: Observation,
        instruction: str,
        queued_OA: FloatArray,
        *,
        frozen: int,
        generator: torch.Generator,
    ) -> FloatArray:
        """Sample a chunk (H, A) that begins as the queued actions do; units and limits are those of `act`.

        Args:
            queued_OA: what the robot still has to execute, in physical units, first action first.
            frozen: how many of them will be over when the chunk is there.
        """
