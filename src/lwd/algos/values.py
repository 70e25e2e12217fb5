"""How V and Q learn from a batch: DIVL, and what it is measured against.

Each class gives the loss of one critic update; the caller takes the step and moves the target. All regress the critics
on y = R + discount * (value of the bootstrap state) and differ in that value.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lwd.algos.config import LWDConfig
from lwd.algos.protocol import Metrics
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.models.critic import ValueCritic
from lwd.ops.categorical import (
    adaptive_quantile_level,
    categorical_cross_entropy,
    categorical_quantile,
    normalized_entropy,
    two_hot,
)
from lwd.ops.regression import expectile_loss
from lwd.ops.returns import td_target

PolicySample = Callable[[ObservationBatch], Tensor]
"""Chunks (B, H, A) of the policy as it is now, [-1, 1] being the limits of the embodiment."""


class ValueLearning(Protocol):
    """One way to learn V and Q."""

    def loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        """Return the loss of a batch and what to report about it."""


class DIVL:
    """V is the distribution of Q_bar over replay actions; targets bootstrap from its adaptive quantile.

    Source: arXiv 2605.00416; method.md section 2.
    """

    def __init__(self, critic: ValueCritic, target_critic: ValueCritic, config: LWDConfig) -> None:
        self._critic, self._target, self._config = critic, target_critic, config

    def loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        config, critic, atoms_K = self._config, self._critic, self._critic.atoms_K
        chunk_BHA = critic.normalizer.action(batch.action_chunk_BHA)
        with torch.no_grad():
            q_bar_B = lowest_q(self._target, batch.observation, chunk_BHA, batch.action_mask_BH)
            next_z = critic.encode(batch.bootstrap_observation)
            next_probs_BK = critic.value_logits(next_z).softmax(-1)
            level_B, entropy_B = quantile_levels(next_probs_BK, config)
            target_B = bounded_target(batch, categorical_quantile(next_probs_BK, atoms_K, level_B), config)
        z = critic.encode(batch.observation)
        value_loss = categorical_cross_entropy(critic.value_logits(z), two_hot(q_bar_B, atoms_K)).mean()
        critic_loss = squared_errors(critic.q(z, chunk_BHA, batch.action_mask_BH), target_B)
        return value_loss + config.critic_loss_weight * critic_loss, {
            "loss/value": value_loss.item(),
            "loss/critic": critic_loss.item(),
            "divl/quantile_level": level_B.mean().item(),
            "divl/normalized_entropy": entropy_B.mean().item(),
            "divl/target_mean": target_B.mean().item(),
            "critic/q_mean": q_bar_B.mean().item(),
        }


class Expectile:
    """V is a number, the expectile of Q_bar over replay actions; targets bootstrap from it.

    Source: arXiv 2110.06169 (IQL); arXiv 2605.00416, Proposition 1 with p = 2.
    """

    def __init__(self, critic: ValueCritic, target_critic: ValueCritic, config: LWDConfig) -> None:
        self._critic, self._target, self._config = critic, target_critic, config

    def loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        config, critic = self._config, self._critic
        chunk_BHA = critic.normalizer.action(batch.action_chunk_BHA)
        with torch.no_grad():
            q_bar_B = lowest_q(self._target, batch.observation, chunk_BHA, batch.action_mask_BH)
            target_B = bounded_target(batch, critic.value(critic.encode(batch.bootstrap_observation)), config)
        z = critic.encode(batch.observation)
        value_loss = expectile_loss(q_bar_B - critic.value(z), config.expectile).mean()
        critic_loss = squared_errors(critic.q(z, chunk_BHA, batch.action_mask_BH), target_B)
        return value_loss + config.critic_loss_weight * critic_loss, {
            "loss/value": value_loss.item(),
            "loss/critic": critic_loss.item(),
            "expectile/target_mean": target_B.mean().item(),
            "critic/q_mean": q_bar_B.mean().item(),
        }


class PolicyTD:
    """No V: targets bootstrap from a pessimistic ensemble at the policy's own next chunk.

    y = R + discount * (mean_i Q_i(s', a') - rho * std_i Q_i(s', a')), a' ~ pi(. | s').
    Source: arXiv 2601.14234 (QAM), its critic.
    """

    def __init__(
        self, critic: ValueCritic, target_critic: ValueCritic, config: LWDConfig, policy_sample: PolicySample
    ) -> None:
        self._critic, self._target, self._config = critic, target_critic, config
        self._policy_sample = policy_sample

    def loss(self, batch: TransitionBatch) -> tuple[Tensor, Metrics]:
        config, critic, next_state = self._config, self._critic, batch.bootstrap_observation
        chunk_BHA = critic.normalizer.action(batch.action_chunk_BHA)
        with torch.no_grad():
            next_chunk = self._policy_sample(next_state).clamp(-1, 1)
            next_q_NB = torch.stack(self._target.q(self._target.encode(next_state), next_chunk))
            std_B = next_q_NB.std(dim=0, correction=0)
            target_B = bounded_target(batch, next_q_NB.mean(dim=0) - config.pessimism * std_B, config)
        q = critic.q(critic.encode(batch.observation), chunk_BHA, batch.action_mask_BH)
        critic_loss = squared_errors(q, target_B)
        return config.critic_loss_weight * critic_loss, {
            "loss/critic": critic_loss.item(),
            "ensemble/target_mean": target_B.mean().item(),
            "ensemble/std": std_B.mean().item(),
            "critic/q_mean": torch.stack(q).detach().mean().item(),
        }


def quantile_levels(probs_BK: Tensor, config: LWDConfig) -> tuple[Tensor, Tensor]:
    """Return the levels (B,) at which value distributions are read, and their normalised entropies (B,)."""
    entropy_B = normalized_entropy(probs_BK)
    level_B = adaptive_quantile_level(
        entropy_B,
        base=config.quantile_base,
        entropy_weight=config.entropy_weight,
        low=config.quantile_low,
        high=config.quantile_high,
    )
    return level_B, entropy_B


def lowest_q(critic: ValueCritic, observation: ObservationBatch, chunk_BHA: Tensor, mask_BH: Tensor) -> Tensor:
    """Return the minimum of a critic's heads at replay chunks (B,)."""
    return torch.stack(critic.q(critic.encode(observation), chunk_BHA, mask_BH)).amin(dim=0)


def bounded_target(batch: TransitionBatch, next_value_B: Tensor, config: LWDConfig) -> Tensor:
    """Return y = R + discount * value (B,), the value brought into the range of returns."""
    bootstrap_B = next_value_B.clamp(config.bootstrap_low, config.bootstrap_high)
    return td_target(batch.return_B, batch.bootstrap_discount_B, bootstrap_B)


def squared_errors(q: tuple[Tensor, ...], target_B: Tensor) -> Tensor:
    """Return the sum over the heads of their mean squared errors."""
    return torch.stack([(q_B - target_B).square().mean() for q_B in q]).sum()
