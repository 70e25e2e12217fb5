"""What LWD asks of a policy that it trains: a backbone that sees, and an action expert whose output is a flow.

Shape suffixes besides those of `lwd.types`: F entries per step inside the flow, F >= A; N flow steps.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ConfigError
from lwd.models.acting import ActingPolicy
from lwd.models.precision import Precision
from lwd.ops.continuing import continuing_sample, soft_mask
from lwd.ops.flow import ode_sample
from lwd.types import ByteArray, FloatArray, Observation

VJP = Callable[[int, Tensor], Tensor]
"""vjp(step, g_BHF): the cotangent's product with the velocity's Jacobian at one of N steps."""


class Field(Protocol):
    """The velocity at given states, for many evaluations with the weights of this moment."""

    def __call__(self, chunk_NBHF: Tensor, flow_time_NB: Tensor, /) -> Tensor:
        """Return velocities (..., B, H, F) of chunks of the same shape at flow times that broadcast to (..., B)."""

    def linearize(self, chunk_NBHF: Tensor, flow_time_NB: Tensor, /) -> VJP:
        """Return the products with the Jacobians of the velocity at N steps; no gradient reaches the weights."""


class KeptRows(Protocol):
    """Rows of bytes by their keys, some of which are forgotten (`lwd.data.row_table.RowTable` is one)."""

    def get(self, key: bytes) -> ByteArray | None:
        """Return the row of a key, if it is there; a view that the next `put` may write to."""

    def put(self, key: bytes, row: ByteArray) -> None:
        """Keep a row."""


class FrozenPrefix(Protocol):
    """A prefix is what a backbone makes of a state (`FlowPolicy.features`); a frozen one's can be kept."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a prefix, at most."""

    def fingerprint(self) -> str:
        """Return a hash of everything but the state that prefixes depend on: weights, settings, libraries."""

    def keep_in(self, rows: KeptRows | None) -> None:
        """From now on look prefixes up in rows of this fingerprint, and compute what is missing; None: compute all."""


class FlowPolicy(ActingPolicy):
    """A policy whose action head is a flow. Flow time 0 is noise, 1 is data.

    `features` is what the backbone makes of a state, computed once; `condition` is the expert's own view of it. Where
    the backbone is frozen, policy and reference share the features. Their types are each policy's own business.
    Source: arXiv 2605.00416; method.md section 3.
    """

    precision: Precision
    """Of the matrix products; the learner may lower it, acting stays at float32."""

    @property
    def states_at_once(self) -> int | None:
        """States whose activations fit into the memory: gradients of larger batches add up; None: any number."""
        return None

    @abstractmethod
    def train_backbone(self, trained: bool) -> None:
        """Say whether the backbone learns; the action expert, which is all the rest, does. The paper's online stage
        freezes it."""

    @property
    @abstractmethod
    def flow_steps(self) -> int:
        """Euler steps from noise to a chunk when acting."""

    @abstractmethod
    def features(self, observation: ObservationBatch) -> Any:
        """Return what the backbone sees in each state; every flow step reuses it."""

    @abstractmethod
    def condition(self, features: Any) -> Any:
        """Return the context of `field`: the action expert's own view of the features."""

    @abstractmethod
    def field(self, context: Any) -> Field:
        """Return the velocity at fixed states."""

    @abstractmethod
    def flow_chunk(self, observation: ObservationBatch, action_chunk_BHA: Tensor) -> Tensor:
        """Return executed actions (B, H, A), in physical units, as the flow's data (B, H, F)."""

    @abstractmethod
    def unit_chunk(self, observation: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        """Return the flow's chunks (B, H, F) as actions (B, H, A) in which [-1, 1] are the embodiment's limits.

        Not clipped, and differentiable: critics read chunks in these units.
        """

    def frozen_prefix(self) -> FrozenPrefix:
        """Return how prefixes can be kept between updates.

        Raises:
            ConfigError: saying why they cannot.
        """
        raise ConfigError(f"{type(self).__name__} has no frozen backbone worth it: what it makes of a state is small")

    def learned_state(self) -> dict[str, Tensor]:
        """Return the tensors that training may change, by their names in `state_dict`."""
        return self.state_dict()

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Load what `learned_state` returned; the rest stays as it is.

        Raises:
            CheckpointError: if it is another policy's.
        """
        self.load_state_dict(state)

    def encode(self, observation: ObservationBatch) -> Any:
        """Return the context of `velocity`, computed once per state."""
        return self.condition(self.features(observation))

    def velocity(self, context: Any, noisy_chunk_BHF: Tensor, flow_time_B: Tensor) -> Tensor:
        """Return the velocity (..., B, H, F) at noisy chunks of the same shape and flow times (..., B)."""
        return self.field(context)(noisy_chunk_BHF, flow_time_B)

    def sample(self, observation: ObservationBatch, noise_BHF: Tensor) -> Tensor:
        """Integrate the flow from noise: chunks (B, H, F) of the flow."""
        return ode_sample(self.field(self.encode(observation)), noise_BHF, num_steps=self.flow_steps)

    @torch.no_grad()
    def continue_chunk(
        self,
        observation: Observation,
        instruction: str,
        queued_OA: FloatArray,
        *,
        frozen: int,
        generator: torch.Generator,
    ) -> FloatArray:
        """Sample a chunk that goes on from queued actions (`lwd.models.protocol.ContinuingPolicy`): (H, A).

        Raises:
            ShapeError: if there are fewer than `frozen` queued actions.
        Source: arXiv 2506.07339 (real-time chunking).
        """
        batch = self.observation_batch([observation], [instruction])
        device = batch.state_BS.device
        overlap = min(len(queued_OA), self.horizon)
        before_HA = np.zeros((self.horizon, self.embodiment.action_size), np.float32)
        before_HA[:overlap] = queued_OA[:overlap]
        target_BHF = self.flow_chunk(batch, torch.from_numpy(before_HA).to(device).unsqueeze(0))
        weight_HF = torch.zeros(self.noise_shape, device=device)
        # Padding is no action: it is left to the flow.
        self.real(weight_HF)[:] = soft_mask(self.horizon, frozen, overlap).to(device).unsqueeze(-1)
        chunk_BHF = continuing_sample(
            self.field(self.encode(batch)),
            torch.randn((1, *self.noise_shape), generator=generator, device=device),
            self.flow_steps,
            target=target_BHF,
            weight=weight_HF,
        )
        return self.physical_chunk(batch, chunk_BHF)[0].cpu().numpy()

    def chunk_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise (B, H, F)."""
        return torch.randn((batch_size, *self.noise_shape), generator=generator, device=generator.device)

    def real(self, chunk: Tensor) -> Tensor:
        """Return the entries (..., A) of a flow's chunk (..., F) that are actions, without padding."""
        return chunk[..., : self.embodiment.action_size]
