"""Supervised fine-tuning: flow matching on demonstrations. Its result is the reference policy f_beta."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lwd.algos.optimization import OptimizerStep, Part, SumOverProcesses
from lwd.algos.protocol import Metrics, State
from lwd.batch import TransitionBatch
from lwd.models.flow_policy import FlowPolicy
from lwd.ops.flow import flow_matching_loss, interpolate
from lwd.ops.soft_update import soft_update


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of supervised fine-tuning."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    total_updates: int | None = None
    """Length of the cosine schedule; None keeps the learning rate constant."""
    warmup_updates: int = 0
    polyak_rate: float = 0.005
    """The deployed policy is the running average of the trained weights."""


class SFT:
    """Minimises E || f_theta(s, (1-w) a_0 + w a_1, w) - (a_1 - a_0) ||^2 over what a batch has worth imitating.

    Source: arXiv 2605.00416, the SFT loss; arXiv 2210.02747.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        config: SFTConfig,
        generator: torch.Generator,
        *,
        sum_over_processes: SumOverProcesses | None = None,
    ) -> None:
        self.policy = policy
        self.averaged_policy = deepcopy(policy).requires_grad_(False)
        self.config = config
        self.generator = generator
        self.updates = 0
        self._step = OptimizerStep(
            (p for p in policy.parameters() if p.requires_grad),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_gradient_norm=config.max_gradient_norm,
            total_steps=config.total_updates,
            warmup_steps=config.warmup_updates,
            sum_over_processes=sum_over_processes,
        )

    def update(self, batch: TransitionBatch) -> Metrics:
        """Take one step on the imitable steps of the batch's chunks (`TransitionBatch.imitable`).

        None, and no metrics, if no process that trains along has any in its batch.
        """
        batch = batch.to(self.generator.device).imitable()
        # The loss is a mean over the actions that count.
        weight = int(batch.action_mask_BH.sum())
        step = self._step(self._parts(batch, weight), "loss/flow", weight=weight)
        if not step.weight:
            return {}
        # What is frozen is left out: an average of equal numbers may round to another one.
        pairs = zip(self.averaged_policy.parameters(), self.policy.parameters(), strict=True)
        averaged, trained = zip(*((a, p) for a, p in pairs if p.requires_grad), strict=True)
        soft_update(averaged, trained, self.config.polyak_rate)
        self.updates += 1
        return {"loss/flow": step.loss, "gradient_norm/policy": step.gradient_norm}

    def _parts(self, batch: TransitionBatch, weight: int) -> Iterator[Part]:
        for part in batch.split(self.policy.states_at_once):
            if count := int(part.action_mask_BH.sum()):
                yield Part(self._loss(part), count / weight)

    def _loss(self, batch: TransitionBatch) -> Tensor:
        return chunk_matching_loss(self.policy, self.policy.encode(batch.observation), batch, self.generator)

    def deployed_policy(self) -> FlowPolicy:
        """Return the policy to publish; it changes with later updates."""
        return self.averaged_policy

    def state(self) -> State:
        return {
            "policy": self.policy.learned_state(),
            "averaged_policy": self.averaged_policy.learned_state(),
            "optimizer": self._step.state(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state(self, state: State) -> None:
        self.policy.load_learned_state(state["policy"])
        self.averaged_policy.load_learned_state(state["averaged_policy"])
        self._step.load_state(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]


def chunk_matching_loss(policy: FlowPolicy, context: Any, batch: TransitionBatch, generator: torch.Generator) -> Tensor:
    """Return the flow-matching loss of a batch's chunks, a scalar: || f(s, (1-w) a_0 + w a_1, w) - (a_1 - a_0) ||^2.

    Args:
        context: of the batch's observations, under whatever the policy is conditioned on.
        generator: draws noise a_0 and flow times w.
    Source: arXiv 2210.02747; arXiv 2605.00416, the SFT loss.
    """
    chunk = policy.flow_chunk(batch.observation, batch.action_chunk_BHA)
    noise = torch.randn(chunk.shape, generator=generator, device=chunk.device)
    flow_time_B = torch.rand(chunk.shape[:1], generator=generator, device=chunk.device)
    velocity = policy.velocity(context, interpolate(noise, chunk, flow_time_B), flow_time_B)
    return flow_matching_loss(policy.real(velocity), policy.real(noise), policy.real(chunk), batch.action_mask_BH)
