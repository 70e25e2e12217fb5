"""An advantage-conditioned flow policy: it is told whether a chunk is better than usual, and asked for such chunks."""

import torch
from torch import Tensor, nn

from lwd.batch import ObservationBatch
from lwd.models.acting import ActingPolicy
from lwd.models.normalization import Normalizer
from lwd.models.vla import SmallVLA
from lwd.ops.flow import ode_sample

UNSAID, NEGATIVE, POSITIVE = 0, 1, 2
"""Indicators: nothing is said about the advantage; it is not better than usual; it is."""


class AdvantagePolicy(ActingPolicy):
    """pi(a | s, I) with the indicator I as one more input of the action expert.

    Acting samples the guided velocity v(s, a, w, unsaid) + g (v(s, a, w, positive) - v(s, a, w, unsaid)): g = 1 is the
    positive policy, more exaggerates what makes chunks good.
    Source: arXiv 2511.14759 (pi*0.6), advantage conditioning and classifier-free guidance.
    """

    def __init__(self, policy: SmallVLA, guidance: float) -> None:
        super().__init__()
        self.policy = policy
        self.guidance = guidance
        # Zero: before it is trained, the policy does whatever it did, whatever it is told.
        self.indicator_IC = nn.Parameter(torch.zeros(3, policy.config.context_size))
        self.embodiment, self.horizon = policy.embodiment, policy.horizon
        self.instructions = policy.instructions

    @property
    def normalizer(self) -> Normalizer:
        return self.policy.normalizer

    def encode(self, observation: ObservationBatch, indicator_B: Tensor) -> Tensor:
        """Return the context (B, W) of `velocity` under indicators (B,)."""
        return self.policy.condition(self.policy.features(observation) + self.indicator_IC[indicator_B])

    def velocity(self, context: Tensor, noisy_chunk_BHA: Tensor, flow_time_B: Tensor) -> Tensor:
        """Return the velocity (B, H, A) at noisy chunks."""
        return self.policy.velocity(context, noisy_chunk_BHA, flow_time_B)

    def sample(self, observation: ObservationBatch, noise_BHF: Tensor) -> Tensor:
        """Integrate the guided flow from noise: chunks (B, H, A), normalised to [-1, 1]."""
        features = self.policy.features(observation)
        unsaid, positive = (
            self.policy.field(self.policy.condition(features + self.indicator_IC[indicator]))
            for indicator in (UNSAID, POSITIVE)
        )

        def guided(chunk_BHA: Tensor, flow_time_B: Tensor) -> Tensor:
            free = unsaid(chunk_BHA, flow_time_B)
            return free + self.guidance * (positive(chunk_BHA, flow_time_B) - free)

        return ode_sample(guided, noise_BHF, num_steps=self.policy.flow_steps)
