"""What LWD asks of a policy: of one that acts, and of a flow policy that QAM can train."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.types import Embodiment, FloatArray, Observation

ContextT = TypeVar("ContextT")


class Policy(Protocol):
    """What robots and evaluations need."""

    embodiment: Embodiment
    horizon: int

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
            noise_BHA: (B, H, A) standard normal, for results that do not depend on who else is in the batch.
        """


class FlowPolicy(Policy, Protocol[ContextT]):
    """A policy whose action head is a flow. Flow time 0 is noise, 1 is data; chunks are normalised to about [-1, 1]."""

    def encode(self, observation: ObservationBatch) -> ContextT:
        """Compute the prefix once per state; every flow step reuses it."""

    def velocity(self, context: ContextT, noisy_chunk_BHA: Tensor, flow_time_B: Tensor) -> Tensor:
        """Return the velocity (B, H, A) of the flow at the noisy chunk."""
