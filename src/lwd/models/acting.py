"""What all policies do alike when they act: observations to tensors, noise, and chunks back in physical units."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lwd.batch import ObservationBatch
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import Normalizer
from lwd.types import Embodiment, FloatArray, Observation


class ActingPolicy(nn.Module, ABC):
    """A network that turns observations and noise into chunks; implements the acting side of `FlowPolicy`."""

    embodiment: Embodiment
    horizon: int
    instructions: InstructionEncoder

    @property
    @abstractmethod
    def normalizer(self) -> Normalizer:
        """Statistics of states and actions."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of one chunk's noise: (H, A), or (H, F) where the flow has more entries than the robot."""
        return self.horizon, self.embodiment.action_size

    @abstractmethod
    def sample(self, observation: ObservationBatch, noise_BHF: Tensor) -> Tensor:
        """Return chunks (B, H, F) of the flow as a function of standard normal noise."""

    def physical_chunk(self, observation: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        """Return a flow's chunks as actions (B, H, A) in physical units, within the embodiment's limits."""
        return self.normalizer.physical_action(chunk_BHF)

    @torch.no_grad()
    def act(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        *,
        generator: torch.Generator | None = None,
        noise_BHA: FloatArray | None = None,
    ) -> FloatArray:
        """Sample one chunk per robot.

        Args:
            generator: draws the noise where none is given.
            noise_BHA: (B, *noise_shape) standard normal, for results that do not depend on who else is in the batch.
        Returns:
            (B, H, A) float32 in physical units, within the embodiment's limits.
        """
        batch = self.observation_batch(observations, instructions)
        shape = (len(observations), *self.noise_shape)
        device = batch.state_BS.device
        if noise_BHA is None:
            noise = torch.randn(shape, generator=generator, device=device)
        else:
            noise = torch.as_tensor(noise_BHA, dtype=torch.float32, device=device)
        return self.physical_chunk(batch, self.sample(batch, noise)).cpu().numpy()

    def observation_batch(self, observations: Sequence[Observation], instructions: Sequence[str]) -> ObservationBatch:
        """Stack observations of several robots on the policy's device."""
        device = next(self.parameters()).device
        self.instructions.add(instructions)
        states = np.stack([o.state for o in observations]).astype(np.float32, copy=False)
        return ObservationBatch(
            state_BS=torch.from_numpy(states).to(device),
            instruction_BE=torch.from_numpy(np.stack([self.instructions(i) for i in instructions])).to(device),
            images={
                name: torch.from_numpy(np.stack([o.images[name] for o in observations])).to(device)
                for name in self.embodiment.cameras
            },
        )
