"""How the policy gets better by Q: adjoint matching (QAM), and one-step distillation (FQL) to measure it against."""

from typing import Any, Protocol

import torch
from torch import Tensor

from lwd.algos.config import LWDConfig
from lwd.algos.protocol import Metrics
from lwd.algos.temperature import QSpread
from lwd.batch import ObservationBatch
from lwd.models.critic import ValueCritic
from lwd.models.flow_policy import Field, FlowPolicy
from lwd.ops.adjoint import adjoint_matching_loss, lean_adjoint_from_vjp
from lwd.ops.flow import flow_times, memoryless_sde_rollout, memoryless_sigma


class Extraction(Protocol):
    """One way to move the policy towards what Q prefers."""

    def loss(self, states: ObservationBatch) -> tuple[Tensor, Metrics]:
        """Return the actor's loss at the given states and what to report about it."""


class QAM:
    """Regress the policy's velocity on the lean adjoint of Q along memoryless trajectories.

    Source: arXiv 2601.14234, arXiv 2409.08861; method.md section 3.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        reference: FlowPolicy,
        target_critic: ValueCritic,
        config: LWDConfig,
        generator: torch.Generator,
        spread: QSpread,
    ) -> None:
        self._policy, self._reference, self._target = policy, reference, target_critic
        self._config, self._generator, self._spread = config, generator, spread

    def temperature(self) -> float:
        """lambda of the next update."""
        if self._config.temperature == "auto":
            return self._spread.temperature(self._config.auto_temperature_fraction)
        return self._config.temperature

    def loss(self, states: ObservationBatch) -> tuple[Tensor, Metrics]:
        steps, temperature = self._config.flow_steps, self.temperature()
        times_N = flow_times(steps, dtype=states.state_BS.dtype, device=states.state_BS.device)
        starts_N1 = times_N[:, None]
        with torch.no_grad():
            features = self._reference.features(states)
            reference_field = self._reference.field(self._reference.condition(features))
            trajectory, velocity_N = self._rollout(states, features, reference_field)
            # The reference's velocity is in its own roll-out already; along the policy's it takes one batched pass.
            reference_velocity = (
                velocity_N if self._config.rollout == "reference" else reference_field(trajectory[:-1], starts_N1)
            )
        terminal_adjoint = -self._q_gradient(states, trajectory[-1]) / temperature
        vjp = reference_field.linearize(trajectory[:-1], starts_N1 + 1 / steps)
        adjoint = lean_adjoint_from_vjp(vjp, terminal_adjoint, steps)

        velocity = self._policy.velocity(self._policy_context(states, features), trajectory[:-1], starts_N1)
        # Padding is no action: it is neither moved nor counted.
        delta = self._policy.real(velocity - reference_velocity)
        loss = adjoint_matching_loss(delta, self._policy.real(adjoint), memoryless_sigma(times_N, 1 / steps))
        return loss, {
            "qam/temperature": temperature,
            "qam/adjoint_norm": terminal_adjoint.flatten(1).norm(dim=-1).mean().item(),
            "qam/deviation": delta.detach().square().mean().sqrt().item(),
            "critic/q_spread": self._spread.value or 0.0,
        }

    def _policy_context(self, states: ObservationBatch, reference_features: Any) -> Any:
        """Encode for the policy; a frozen backbone's features are the reference's."""
        if self._config.train_backbone:
            return self._policy.encode(states)
        return self._policy.condition(reference_features)

    def _rollout(
        self, states: ObservationBatch, reference_features: Any, reference_field: Field
    ) -> tuple[Tensor, Tensor]:
        """Sample chunks with the memoryless SDE; return its trajectory (N + 1, ...) and velocities (N, ...)."""
        field = reference_field
        if self._config.rollout == "policy":
            field = self._policy.field(self._policy_context(states, reference_features))
        noise = self._policy.chunk_noise(states.size, self._generator)
        return memoryless_sde_rollout(field, noise, self._config.flow_steps, generator=self._generator)

    def _q_gradient(self, states: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        """Gradient of the mean target critic at generated chunks, which count as clipped to the action limits."""
        with torch.no_grad():
            z = self._target.encode(states)
        chunk_BHF = chunk_BHF.requires_grad_()
        unit_BHA = self._policy.unit_chunk(states, chunk_BHF)
        clipped_BHA = unit_BHA.detach().clamp(-1, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(torch.stack(self._target.q(z, clipped_BHA)).mean(dim=0).sum(), clipped_BHA)
        # At the clipped chunk, but of the chunk: what lies outside is pulled back in.
        (gradient,) = torch.autograd.grad(unit_BHA, chunk_BHF, gradient)
        return gradient


class FQL:
    """A one-step policy mu(s, z) = z + v(s, z, 0), distilled from the reference's flow and pushed up Q.

    loss = alpha * || mu(s, z) - flow_beta(s, z) ||^2 - Q(s, mu(s, z)) / mean |Q|, z ~ N(0, I).
    Source: arXiv 2502.02538 (FQL), its actor with normalised Q.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        reference: FlowPolicy,
        target_critic: ValueCritic,
        config: LWDConfig,
        generator: torch.Generator,
    ) -> None:
        self._policy, self._reference, self._target = policy, reference, target_critic
        self._config, self._generator = config, generator

    def loss(self, states: ObservationBatch) -> tuple[Tensor, Metrics]:
        noise = self._policy.chunk_noise(states.size, self._generator)
        with torch.no_grad():
            flow_BHF = self._reference.sample(states, noise)
            z = self._target.encode(states)
        chunk_BHF = self._policy.sample(states, noise)
        distillation = self._policy.real(chunk_BHF - flow_BHF).square().mean()
        unit_BHA = self._policy.unit_chunk(states, chunk_BHF)
        q_B = torch.stack(self._target.q(z, unit_BHA.clamp(-1, 1))).mean(dim=0)
        scale = q_B.detach().abs().mean().clamp(min=1e-6)
        return self._config.distillation_weight * distillation - q_B.mean() / scale, {
            "fql/distillation": distillation.item(),
            "fql/q": q_B.detach().mean().item(),
        }
