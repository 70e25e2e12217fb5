"""Per-dimension statistics that bring observations and actions to the scale networks like."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lwd.types import Embodiment, FloatArray


@dataclass(frozen=True, kw_only=True)
class StateStatistics:
    """Mean and standard deviation of each state entry over a data set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, states_NS: FloatArray, *, floor: float = 1e-2) -> "StateStatistics":
        """Measure the statistics of states (N, S).

        Args:
            floor: smallest standard deviation; entries that never move would explode otherwise.
        """
        mean = states_NS.mean(axis=0, dtype=float)
        std = states_NS.std(axis=0, dtype=float).clip(min=floor)
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


class Normalizer(nn.Module):
    """State -> zero mean and unit variance (clipped); action <-> [-1, 1] of the embodiment's limits."""

    state_mean: Tensor
    state_std: Tensor
    action_center: Tensor
    action_scale: Tensor

    def __init__(self, embodiment: Embodiment, statistics: StateStatistics, *, state_clip: float = 5.0) -> None:
        super().__init__()
        low, high = torch.tensor(embodiment.action_low), torch.tensor(embodiment.action_high)
        self.register_buffer("state_mean", torch.tensor(statistics.mean))
        self.register_buffer("state_std", torch.tensor(statistics.std))
        self.register_buffer("action_center", (high + low) / 2)
        self.register_buffer("action_scale", (high - low) / 2)
        self.state_clip = state_clip

    @property
    def statistics(self) -> StateStatistics:
        """The statistics this normaliser was built from."""
        return StateStatistics(mean=tuple(self.state_mean.tolist()), std=tuple(self.state_std.tolist()))

    def state(self, state_BS: Tensor) -> Tensor:
        """Normalise states (..., S)."""
        return ((state_BS - self.state_mean) / self.state_std).clamp(-self.state_clip, self.state_clip)

    def action(self, action_BHA: Tensor) -> Tensor:
        """Physical units -> [-1, 1], (..., A)."""
        return (action_BHA - self.action_center) / self.action_scale

    def physical_action(self, normalized_BHA: Tensor) -> Tensor:
        """[-1, 1] -> physical units, (..., A); values outside are brought to the limits, NaN stays NaN."""
        return normalized_BHA.clamp(-1, 1) * self.action_scale + self.action_center
