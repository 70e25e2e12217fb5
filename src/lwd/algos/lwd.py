"""LWD: DIVL learns V and Q from the replay, QAM moves the flow policy towards what Q prefers.

Reads in the order of the method (method.md sections 2 and 3, arXiv 2605.00416). The same objective serves the
offline and the online stage; only the settings differ.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lwd.algos.optimization import OptimizerStep, SumOverProcesses
from lwd.algos.protocol import Metrics, State
from lwd.algos.sft import SFT, SFTConfig
from lwd.algos.temperature import QSpread
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.errors import ConfigError
from lwd.models.critic import ValueCritic
from lwd.models.expert import VelocityField
from lwd.models.vla import SmallVLA
from lwd.ops.adjoint import adjoint_matching_loss, lean_adjoint_from_vjp
from lwd.ops.categorical import (
    adaptive_quantile_level,
    categorical_cross_entropy,
    categorical_quantile,
    normalized_entropy,
    two_hot,
)
from lwd.ops.flow import flow_times, memoryless_sde_rollout, memoryless_sigma
from lwd.ops.soft_update import soft_update


@dataclass(frozen=True, kw_only=True)
class LWDConfig:
    """Settings of one stage. The defaults are the paper's offline stage; a recipe says where and why it differs."""

    quantile_base: float = 0.6
    """tau_base: 0.6 offline, 0.9 online in the paper."""
    entropy_weight: float = 0.3
    """alpha, how much an uncertain value distribution lowers the quantile level; 0 keeps the level constant."""
    quantile_low: float = 0.05
    quantile_high: float = 0.95
    bootstrap_low: float = 0.0
    bootstrap_high: float = 1.0
    """The return of a sparse success reward lies in [0, 1]; bootstrap values are brought into it."""
    temperature: float | Literal["auto"] = 2.0
    """lambda. Its right scale follows from the critic's: "auto" is a fraction of Q's std over reference actions."""
    auto_temperature_fraction: float = 0.4
    """With "auto": lambda = fraction * std of Q over the reference policy's samples at a state, tracked."""
    rollout: Literal["reference", "policy"] = "reference"
    """Whose SDE gives the trajectories: the reference's (the paper; Q's gradient is then taken at actions the policy
    may have left, and only a Q that is linear in the action gives the exact target), or the policy's (adjoint
    matching proper: exact at convergence)."""
    flow_steps: int = 10
    """T, steps of the memoryless SDE and of the adjoint."""
    critic_loss_weight: float = 1.0
    """Of the squared error beside the cross entropy, which is a hundred times as large and shapes the shared encoder
    alone where the weight is 1."""
    polyak_rate: float = 0.005
    critic_learning_rate: float = 5e-4
    actor_learning_rate: float = 2e-5
    actor_weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    total_updates: int | None = None
    """Length of the cosine schedules; None keeps the learning rates constant."""
    actor_every: int = 1
    """Critic updates per actor update."""
    actor_batch_size: int | None = None
    """States of the batch that the actor's update uses; None uses them all."""
    critic_warmup_updates: int = 0
    """Updates at the start of the stage that train only V and Q."""
    train_backbone: bool = True
    """False freezes the policy's backbone (the paper's online stage) and shares its context with the reference."""
    policy_polyak_rate: float = 1.0
    """The deployed policy is the running average of the trained weights; 1 deploys the trained ones (the paper)."""
    reference_learning_rate: float | None = None
    """None keeps the reference f_beta as it was (the paper). A rate lets it follow the replay's behaviour: flow
    matching on the transitions worth imitating, at every update (arXiv 2601.14234 trains its f_beta so)."""
    reference_polyak_rate: float = 0.005
    """The reference that QAM uses is the running average of the one that is trained."""
    spread_every: int = 50
    """Updates between measurements of Q's spread over reference actions."""

    def __post_init__(self) -> None:
        if self.temperature != "auto" and self.temperature <= 0:
            raise ConfigError(f'temperature is {self.temperature}; give a positive number or "auto"')
        if self.auto_temperature_fraction <= 0:
            raise ConfigError(f"auto_temperature_fraction is {self.auto_temperature_fraction}; it must be positive")
        if self.actor_every < 1:
            raise ConfigError(f"actor_every is {self.actor_every}; it must be at least 1")
        if self.reference_learning_rate is not None and not self.reference_learning_rate > 0:
            raise ConfigError(
                f"reference_learning_rate is {self.reference_learning_rate}; give a positive rate, or None to keep the "
                "reference fixed"
            )


class LWD:
    """DIVL + QAM with their target network, optimisers and random generator."""

    def __init__(
        self,
        policy: SmallVLA,
        reference: SmallVLA,
        critic: ValueCritic,
        config: LWDConfig,
        generator: torch.Generator,
        *,
        target_critic: ValueCritic | None = None,
        sum_over_processes: SumOverProcesses | None = None,
    ) -> None:
        """
        Args:
            generator: on the device of the networks. Processes that train together need different ones.
            sum_over_processes: None where one process trains alone. Otherwise all processes begin with the same
                weights and keep them the same: gradients and Q's spread are means over their batches.
        """
        self.policy = policy
        self._sum = sum_over_processes
        rate = config.reference_learning_rate
        self.imitation = None if rate is None else _imitation(reference, rate, config, generator, sum_over_processes)
        self.reference = reference.requires_grad_(False) if self.imitation is None else self.imitation.averaged_policy
        self.critic = critic
        self.target_critic = (target_critic or deepcopy(critic)).requires_grad_(False)
        self.config = config
        self.generator = generator
        self.updates = 0
        self.spread = QSpread()
        self.averaged_policy = deepcopy(policy).requires_grad_(False)
        policy.requires_grad_(True)
        policy.backbone.requires_grad_(config.train_backbone)
        self._critic_step = OptimizerStep(
            critic.parameters(),
            learning_rate=config.critic_learning_rate,
            max_gradient_norm=config.max_gradient_norm,
            total_steps=config.total_updates,
            sum_over_processes=sum_over_processes,
        )
        self._actor_step = OptimizerStep(
            (p for p in policy.parameters() if p.requires_grad),
            learning_rate=config.actor_learning_rate,
            weight_decay=config.actor_weight_decay,
            max_gradient_norm=config.max_gradient_norm,
            total_steps=config.total_updates,
            sum_over_processes=sum_over_processes,
        )

    def update(self, batch: TransitionBatch) -> Metrics:
        batch = batch.to(self.generator.device)
        metrics = self.update_critic(batch)
        states = batch.observation.first(self.config.actor_batch_size)
        if self.updates % self.config.spread_every == 0:
            self._measure_spread(states.first(32))
        metrics |= self.update_reference(batch)
        if self.updates >= self.config.critic_warmup_updates and self.updates % self.config.actor_every == 0:
            metrics |= self.update_actor(states)
        self.updates += 1
        return metrics

    # ---- DIVL ----------------------------------------------------------------------------------------------

    def update_critic(self, batch: TransitionBatch) -> Metrics:
        """One step on V and Q, which share a backbone, then the target's soft update."""
        config, atoms_K = self.config, self.critic.atoms_K
        chunk_BHA = self.critic.normalizer.action(batch.action_chunk_BHA)
        with torch.no_grad():
            target_z = self.target_critic.encode(batch.observation)
            q_bar_B = torch.minimum(*self.target_critic.q(target_z, chunk_BHA, batch.action_mask_BH))
            next_z = self.critic.encode(batch.bootstrap_observation)
            next_probs_BK = self.critic.value_logits(next_z).softmax(-1)
            entropy_B = normalized_entropy(next_probs_BK)
            level_B = adaptive_quantile_level(
                entropy_B,
                base=config.quantile_base,
                entropy_weight=config.entropy_weight,
                low=config.quantile_low,
                high=config.quantile_high,
            )
            next_value_B = categorical_quantile(next_probs_BK, atoms_K, level_B)
            next_value_B = next_value_B.clamp(config.bootstrap_low, config.bootstrap_high)
            target_B = batch.return_B + batch.bootstrap_discount_B * next_value_B

        z = self.critic.encode(batch.observation)
        value_loss = categorical_cross_entropy(self.critic.value_logits(z), two_hot(q_bar_B, atoms_K)).mean()
        q1_B, q2_B = self.critic.q(z, chunk_BHA, batch.action_mask_BH)
        critic_loss = (q1_B - target_B).square().mean() + (q2_B - target_B).square().mean()
        loss = value_loss + config.critic_loss_weight * critic_loss
        step = self._critic_step(loss, "loss/value + loss/critic")
        soft_update(list(self.target_critic.parameters()), list(self.critic.parameters()), config.polyak_rate)
        return {
            "loss/value": value_loss.item(),
            "loss/critic": critic_loss.item(),
            "divl/quantile_level": level_B.mean().item(),
            "divl/normalized_entropy": entropy_B.mean().item(),
            "divl/target_mean": target_B.mean().item(),
            "critic/q_mean": q_bar_B.mean().item(),
            "gradient_norm/critic": step.gradient_norm,
        }

    # ---- the reference ------------------------------------------------------------------------------------

    def update_reference(self, batch: TransitionBatch) -> Metrics:
        """One step of the reference towards the replay's good behaviour; none where it is fixed.

        The policy's weights make the same step. What QAM has learned is its distance to the reference; carried along,
        that distance need not be learned anew for every reference.
        """
        if self.imitation is None:
            return {}
        before = [parameter.clone() for parameter in self.reference.parameters()]
        # Also without a chunk of its own a process takes part: the others may have some.
        metrics = self.imitation.update(batch.imitable())
        if not metrics:
            return {}
        with torch.no_grad():
            steps = [after - old for after, old in zip(self.reference.parameters(), before, strict=True)]
            for network in (self.policy, self.averaged_policy):
                for parameter, step in zip(network.parameters(), steps, strict=True):
                    parameter.add_(step)
        return {"loss/reference": metrics["loss/flow"]}

    # ---- QAM -----------------------------------------------------------------------------------------------

    def update_actor(self, states: ObservationBatch) -> Metrics:
        """One adjoint-matching step on the policy at the given states."""
        steps, temperature = self.config.flow_steps, self.temperature()
        times_N = flow_times(steps, dtype=states.state_BS.dtype, device=states.state_BS.device)
        starts_N1 = times_N[:, None]
        with torch.no_grad():
            features = self.reference.features(states)
            reference_field = self.reference.field(self.reference.condition(features))
            trajectory, velocity_N = self._rollout(states, features, reference_field)
            # The reference's velocity is in its own roll-out already; along the policy's it takes one batched pass.
            reference_velocity = (
                velocity_N if self.config.rollout == "reference" else reference_field(trajectory[:-1], starts_N1)
            )
        terminal_adjoint = -self._q_gradient(states, trajectory[-1]) / temperature
        vjp = reference_field.linearize(trajectory[:-1], starts_N1 + 1 / steps)
        adjoint = lean_adjoint_from_vjp(vjp, terminal_adjoint, steps)

        velocity = self.policy.velocity(self._policy_context(states, features), trajectory[:-1], starts_N1)
        delta = velocity - reference_velocity
        loss = adjoint_matching_loss(delta, adjoint, memoryless_sigma(times_N, 1 / steps))
        step = self._actor_step(loss, "loss/actor")
        soft_update(
            list(self.averaged_policy.parameters()), list(self.policy.parameters()), self.config.policy_polyak_rate
        )
        return {
            "loss/actor": loss.item(),
            "qam/temperature": temperature,
            "qam/adjoint_norm": terminal_adjoint.flatten(1).norm(dim=-1).mean().item(),
            "qam/deviation": delta.detach().square().mean().sqrt().item(),
            "critic/q_spread": self.spread.value or 0.0,
            "gradient_norm/actor": step.gradient_norm,
        }

    def temperature(self) -> float:
        """lambda of the next actor update."""
        if self.config.temperature == "auto":
            return self.spread.temperature(self.config.auto_temperature_fraction)
        return self.config.temperature

    def _policy_context(self, states: ObservationBatch, reference_features: Tensor) -> Tensor:
        """Encode for the policy; a frozen backbone's features are the reference's."""
        return self.policy.encode(states) if self.config.train_backbone else self.policy.condition(reference_features)

    def _rollout(
        self, states: ObservationBatch, reference_features: Tensor, reference_field: VelocityField
    ) -> tuple[Tensor, Tensor]:
        """Sample chunks with the memoryless SDE; return its trajectory (N + 1, ...) and velocities (N, ...)."""
        field = reference_field
        if self.config.rollout == "policy":
            field = self.policy.field(self._policy_context(states, reference_features))
        return memoryless_sde_rollout(field, self._noise(states.size), self.config.flow_steps, generator=self.generator)

    def _q_gradient(self, states: ObservationBatch, chunk_BHA: Tensor) -> Tensor:
        """Gradient of the mean target critic at generated chunks, which count as clipped to the action limits."""
        with torch.no_grad():
            z = self.target_critic.encode(states)
        chunk_BHA = chunk_BHA.clamp(-1, 1).requires_grad_()
        q1_B, q2_B = self.target_critic.q(z, chunk_BHA)
        (gradient,) = torch.autograd.grad((q1_B + q2_B).sum() / 2, chunk_BHA)
        return gradient

    @torch.no_grad()
    def _measure_spread(self, states: ObservationBatch) -> None:
        samples = 8
        repeated = states.repeat(samples)
        trajectory, _ = memoryless_sde_rollout(
            self.reference.field(self.reference.encode(repeated)),
            self._noise(repeated.size),
            self.config.flow_steps,
            generator=self.generator,
        )
        q1_B, q2_B = self.target_critic.q(self.target_critic.encode(repeated), trajectory[-1].clamp(-1, 1))
        spread_B = ((q1_B + q2_B) / 2).view(samples, states.size).std(dim=0)
        total = torch.stack([spread_B.sum(), spread_B.new_tensor(states.size)])
        if self._sum is not None:
            # The temperature must be the same in all processes.
            self._sum(total)
        self.spread.add((total[0] / total[1]).item())

    def _noise(self, batch_size: int) -> Tensor:
        shape = (batch_size, self.policy.horizon, self.policy.embodiment.action_size)
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    # ---- state ---------------------------------------------------------------------------------------------

    def policy_state(self) -> Mapping[str, Tensor]:
        return self.averaged_policy.state_dict()

    def state(self) -> State:
        return {
            "policy": self.policy.state_dict(),
            "averaged_policy": self.averaged_policy.state_dict(),
            "reference": self.reference.state_dict(),
            "imitation": {} if self.imitation is None else self.imitation.state(),
            "critic": self.critic.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "critic_optimizer": self._critic_step.state(),
            "actor_optimizer": self._actor_step.state(),
            "generator": self.generator.get_state(),
            "spread": self.spread.value,
            "updates": self.updates,
        }

    def load_state(self, state: State) -> None:
        self.policy.load_state_dict(state["policy"])
        self.averaged_policy.load_state_dict(state["averaged_policy"])
        self.reference.load_state_dict(state["reference"])
        if self.imitation is not None:
            self.imitation.load_state(state["imitation"])
        self.critic.load_state_dict(state["critic"])
        self.target_critic.load_state_dict(state["target_critic"])
        self._critic_step.load_state(state["critic_optimizer"])
        self._actor_step.load_state(state["actor_optimizer"])
        self.generator.set_state(state["generator"])
        self.spread.value = state["spread"]
        self.updates = state["updates"]


def _imitation(
    reference: SmallVLA,
    learning_rate: float,
    config: LWDConfig,
    generator: torch.Generator,
    sum_over_processes: SumOverProcesses | None,
) -> SFT:
    """The reference as a learner of its own: it imitates what the replay holds of good behaviour."""
    reference.requires_grad_(True)
    # A frozen backbone's features are shared with the policy, so it must stay as it is here, too.
    reference.backbone.requires_grad_(config.train_backbone)
    settings = SFTConfig(
        learning_rate=learning_rate,
        max_gradient_norm=config.max_gradient_norm,
        polyak_rate=config.reference_polyak_rate,
    )
    return SFT(reference, settings, generator, sum_over_processes=sum_over_processes)
