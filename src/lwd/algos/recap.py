"""RECAP: learn how good states turn out to be, then imitate everything and say which chunks were better than usual.

A round has two phases. In the first half of its updates V learns the returns that were observed. Then V stands still:
the advantage of a chunk is what it gained over V, and the policy is trained by flow matching on all chunks, with the
indicator "better than usual" as an input. Deployed, the policy is asked for such chunks.
Source: arXiv 2511.14759 (pi*0.6); method.md section 7.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lwd.algos.optimization import OptimizerStep
from lwd.algos.protocol import Metrics, State
from lwd.algos.sft import chunk_matching_loss
from lwd.batch import TransitionBatch
from lwd.errors import ConfigError
from lwd.models.advantage import NEGATIVE, POSITIVE, UNSAID, AdvantagePolicy
from lwd.models.critic import ValueCritic
from lwd.ops.categorical import categorical_cross_entropy, two_hot
from lwd.ops.soft_update import soft_update


@dataclass(frozen=True, kw_only=True)
class RecapConfig:
    """Settings of RECAP."""

    round_updates: int
    """Updates of a round: half of them for V, half for the policy."""
    positive_share: float = 0.3
    """Share of a task's chunks that counts as better than usual."""
    indicator_dropout: float = 0.3
    """Share of the chunks about which nothing is said, so that the policy can be guided."""
    guidance: float = 1.5
    """1 samples the policy of positive chunks; more exaggerates the difference."""
    calibration_updates: int = 32
    """Batches at the start of the policy's phase that only measure advantages, for the tasks' thresholds."""
    value_learning_rate: float = 1e-3
    policy_learning_rate: float = 1e-3
    max_gradient_norm: float = 1.0
    policy_polyak_rate: float = 0.002
    """The deployed policy is the running average of the trained weights."""

    def __post_init__(self) -> None:
        if not 0 < self.positive_share < 1:
            raise ConfigError(f"positive_share is {self.positive_share}; it lies in (0, 1)")
        if not 0 <= self.indicator_dropout < 1:
            raise ConfigError(f"indicator_dropout is {self.indicator_dropout}; it lies in [0, 1)")
        if self.calibration_updates < 1:
            raise ConfigError(f"calibration_updates is {self.calibration_updates}; measure at least one batch")
        if self.round_updates < 2 * (self.calibration_updates + 1):
            raise ConfigError(
                f"round_updates is {self.round_updates}; its policy half must be longer than calibration_updates, "
                f"{self.calibration_updates}"
            )


class Recap:
    """Value head and advantage-conditioned policy with their optimisers and random generator."""

    def __init__(
        self,
        policy: AdvantagePolicy,
        critic: ValueCritic,
        config: RecapConfig,
        generator: torch.Generator,
    ) -> None:
        """
        Args:
            critic: its encoder and value head are trained, its Q heads are not used.
        """
        self.policy = policy.requires_grad_(True)
        self.averaged_policy = deepcopy(policy).requires_grad_(False)
        self.critic = critic
        self.config = config
        self.generator = generator
        self.updates = 0
        self._advantages: list[Tensor] = []
        self._tasks: list[Tensor] = []
        self._value_step = OptimizerStep(
            [*critic.encoder.parameters(), *critic.value_head.parameters()],
            learning_rate=config.value_learning_rate,
            max_gradient_norm=config.max_gradient_norm,
        )
        self._policy_step = OptimizerStep(
            policy.parameters(),
            learning_rate=config.policy_learning_rate,
            max_gradient_norm=config.max_gradient_norm,
        )

    def update(self, batch: TransitionBatch) -> Metrics:
        batch = batch.to(self.generator.device)
        half = self.config.round_updates // 2
        of_policy = self.updates % self.config.round_updates - half
        if of_policy < 0:
            self._advantages, self._tasks = [], []
            metrics = self.update_value(batch)
        elif of_policy < self.config.calibration_updates:
            self._advantages.append(self.advantage(batch))
            self._tasks.append(batch.task_B)
            metrics = {"recap/advantage": self._advantages[-1].mean().item()}
        else:
            metrics = self.update_policy(batch)
        self.updates += 1
        return metrics

    def update_value(self, batch: TransitionBatch) -> Metrics:
        """One step of V towards the observed returns: cross entropy to their two-hot projection."""
        logits_BK = self.critic.value_logits(self.critic.encode(batch.observation))
        target_BK = two_hot(batch.outcome_return_B, self.critic.atoms_K)
        loss = categorical_cross_entropy(logits_BK, target_BK).mean()
        step = self._value_step(loss, "loss/value")
        return {"loss/value": step.loss, "gradient_norm/value": step.gradient_norm}

    @torch.no_grad()
    def advantage(self, batch: TransitionBatch) -> Tensor:
        """Return A = sum of the rewards over the chunk + discount * V(s_{t+H}) - V(s_t), (B,).

        V is the mean of its distribution.
        """
        value_B = self.critic.value(self.critic.encode(batch.observation))
        next_value_B = self.critic.value(self.critic.encode(batch.bootstrap_observation))
        return batch.return_B + batch.bootstrap_discount_B * next_value_B - value_B

    def positive(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Return which chunks count as better than usual (B,), and which of their steps are imitated (B, H).

        Better is a chunk by its advantage, or because it begins with a human's correction. A correction is imitated as
        far as its steps are a human's, unless the whole chunk is better anyway.
        """
        better_B = self.advantage(batch) > self._thresholds(batch.task_B)
        corrected_BH = (batch.human_BH & batch.action_mask_BH).cumprod(dim=1).bool()
        by_human_B = corrected_BH[:, 0] & ~better_B
        return better_B | by_human_B, torch.where(by_human_B[:, None], corrected_BH, batch.action_mask_BH)

    def update_policy(self, batch: TransitionBatch) -> Metrics:
        """One flow-matching step on all chunks, each with its indicator or none."""
        positive_B, mask_BH = self.positive(batch)
        batch = replace(batch, action_mask_BH=mask_BH)
        said_B = torch.rand(batch.size, generator=self.generator, device=positive_B.device)
        indicator_B = torch.where(positive_B, POSITIVE, NEGATIVE)
        indicator_B = torch.where(said_B < self.config.indicator_dropout, UNSAID, indicator_B)
        context = self.policy.encode(batch.observation, indicator_B)
        loss = chunk_matching_loss(self.policy.policy, context, batch, self.generator)
        step = self._policy_step(loss, "loss/flow")
        soft_update(
            list(self.averaged_policy.parameters()), list(self.policy.parameters()), self.config.policy_polyak_rate
        )
        return {
            "loss/flow": step.loss,
            "recap/positive_share": positive_B.float().mean().item(),
            "gradient_norm/policy": step.gradient_norm,
        }

    def _thresholds(self, task_B: Tensor) -> Tensor:
        """Return each chunk's threshold (B,): what `positive_share` of its task's measured advantages exceed."""
        advantages, tasks = torch.cat(self._advantages), torch.cat(self._tasks)
        level = 1 - self.config.positive_share
        everywhere = advantages.quantile(level)
        thresholds_B = everywhere.expand(task_B.shape).clone()
        for task in set(task_B.tolist()):
            if (of_task := tasks == task).any():
                thresholds_B[task_B == task] = advantages[of_task].quantile(level)
        return thresholds_B

    def deployed_policy(self) -> AdvantagePolicy:
        """Return the policy to publish; it changes with later updates."""
        return self.averaged_policy

    def state(self) -> State:
        return {
            "policy": self.policy.state_dict(),
            "averaged_policy": self.averaged_policy.state_dict(),
            "critic": self.critic.state_dict(),
            "value_optimizer": self._value_step.state(),
            "policy_optimizer": self._policy_step.state(),
            "advantages": torch.cat(self._advantages) if self._advantages else torch.zeros(0),
            "tasks": torch.cat(self._tasks) if self._tasks else torch.zeros(0, dtype=torch.int64),
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state(self, state: State) -> None:
        self.policy.load_state_dict(state["policy"])
        self.averaged_policy.load_state_dict(state["averaged_policy"])
        self.critic.load_state_dict(state["critic"])
        self._value_step.load_state(state["value_optimizer"])
        self._policy_step.load_state(state["policy_optimizer"])
        measured = bool(state["advantages"].numel())
        self._advantages = [state["advantages"]] if measured else []
        self._tasks = [state["tasks"]] if measured else []
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]
