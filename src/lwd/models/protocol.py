"""What robots and evaluations ask of a policy; what training asks of it is in `lwd.models.flow_policy`."""

from collections.abc import Sequence
from typing import Protocol

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
