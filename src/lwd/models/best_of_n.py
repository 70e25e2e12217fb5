"""Best of N: a flow policy proposes several chunks, a critic picks the one to execute."""

import numpy as np
import torch
from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ConfigError, ShapeError
from lwd.matching import first_conflict
from lwd.models.acting import ActingPolicy
from lwd.models.critic import ValueCritic
from lwd.models.flow_policy import FlowPolicy
from lwd.models.normalization import Normalizer


class BestOfN(ActingPolicy):
    """argmax over N samples a_i ~ pi(. | s) of the mean of the critics' Q(s, a_i).

    Where the policy is the behaviour policy, this is the support-constrained greedy policy of the critic; it needs no
    gradient of Q, and costs N samples and one pass of the critic per chunk.
    Source: arXiv 2304.10573 (IDQL) and arXiv 2507.07969 (Q-chunking), best-of-N sampling.
    """

    def __init__(self, policy: FlowPolicy, critic: ValueCritic, samples: int) -> None:
        """
        Args:
            samples: N.
        Raises:
            ConfigError: if samples is below 1.
            ShapeError: if policy and critic are of different embodiments.
        """
        super().__init__()
        if samples < 1:
            raise ConfigError(f"samples is {samples}; best-of-N needs at least one chunk to choose from")
        if first_conflict(policy.embodiment, critic.embodiment):
            raise ShapeError(
                f"the policy is of embodiment {policy.embodiment.name!r}, the critic of {critic.embodiment.name!r}"
            )
        self.policy = policy
        self.critic = critic
        self.samples = samples
        self.embodiment, self.horizon = policy.embodiment, policy.horizon
        self.instructions = policy.instructions

    @property
    def normalizer(self) -> Normalizer:
        return self.policy.normalizer

    @property
    def noise_shape(self) -> tuple[int, int]:
        return self.policy.noise_shape

    def physical_chunk(self, observation: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        return self.policy.physical_chunk(observation, chunk_BHF)

    def sample(self, observation: ObservationBatch, noise_BHF: Tensor) -> Tensor:
        """Return the best of N chunks (B, H, F); the first proposal is the one that the policy itself would execute."""
        repeated = observation.repeat(self.samples)
        proposals = self.policy.sample(repeated, self._noise(noise_BHF))
        z = self.critic.encode(observation).repeat(self.samples, 1)
        q = torch.stack(self.critic.q(z, self.policy.unit_chunk(repeated, proposals).clamp(-1, 1))).mean(dim=0)
        best_B = q.view(self.samples, -1).argmax(dim=0)
        rows = torch.arange(observation.size, device=best_B.device)
        return proposals[best_B * observation.size + rows]

    def _noise(self, noise_BHF: Tensor) -> Tensor:
        """N times the noise: the given one, and more that follows from each row alone, whoever else is in the batch."""
        rows = noise_BHF.cpu().numpy()
        more = [
            np.random.default_rng(np.frombuffer(row.tobytes(), np.uint32)).standard_normal(
                (self.samples - 1, *row.shape), dtype=np.float32
            )
            for row in rows
        ]
        others_NBHF = torch.from_numpy(np.stack(more, axis=1)).to(noise_BHF.device)
        return torch.cat([noise_BHF.unsqueeze(0), others_NBHF]).flatten(0, 1)
