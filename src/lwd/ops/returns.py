"""Returns and bootstrap discounts over n action chunks, discounted per control step.

Source: arXiv 2605.00416 (LWD), the chunk-level replay and DIVL's n-step target.
"""

import torch
from torch import Tensor

from lwd.errors import ConfigError
from lwd.ops.shapes import require_same_shape


def n_step_chunk_return(rewards_BN: Tensor, valid_BN: Tensor, gamma: float) -> Tensor:
    """Return sum_i gamma^i r_{t+i} over the valid control steps of a window of n chunks (N = n * H).

    A chunk's reward is itself the discounted sum over its control steps, so the sum over chunks of
    gamma^{jH} times the chunk's reward is this sum over control steps.

    Args:
        rewards_BN: per control step from t on; what lies in invalid steps is ignored, NaN included.
        valid_BN: bool, False after the episode's end.
        gamma: discount per control step, in (0, 1].
    Returns:
        return_B.
    Raises:
        ShapeError: if the shapes differ.
        ConfigError: if gamma is outside (0, 1].
    Source: arXiv 2605.00416, r_t and the first term of the TD target y.
    """
    _require_gamma(gamma)
    require_same_shape(rewards_BN=rewards_BN, valid_BN=valid_BN)
    steps_N = torch.arange(rewards_BN.shape[-1], dtype=torch.float64, device=rewards_BN.device)
    # Powers in double: float32 gamma = 0.9999 is wrong in the fifth digit after 300 steps.
    discount_N = torch.pow(gamma, steps_N).to(rewards_BN.dtype)
    return (torch.where(valid_BN, rewards_BN, torch.zeros_like(rewards_BN)) * discount_N).sum(-1)


def bootstrap_discount(steps_B: Tensor, terminated_B: Tensor, gamma: float) -> Tensor:
    """Return gamma^steps where the window did not terminate, else 0.

    A truncated episode (outcome unknown) did not terminate: it bootstraps from its last state.

    Args:
        steps_B: integer, real control steps inside the window.
        terminated_B: bool, True where success, failure or the time limit ended the episode inside the window.
        gamma: discount per control step, in (0, 1].
    Returns:
        bootstrap_discount_B, float32.
    Raises:
        ShapeError: if the shapes differ.
        ConfigError: if gamma is outside (0, 1].
    Source: arXiv 2605.00416, gamma^{nH} of the TD target y, without bootstrap past a terminal chunk.
    """
    _require_gamma(gamma)
    require_same_shape(steps_B=steps_B, terminated_B=terminated_B)
    discount_B = torch.pow(gamma, steps_B.to(torch.float64))
    return torch.where(terminated_B, torch.zeros_like(discount_B), discount_B).to(torch.float32)


def td_target(return_B: Tensor, bootstrap_discount_B: Tensor, bootstrap_value_B: Tensor) -> Tensor:
    """Return y = return + discount * bootstrap value, without gradient.

    Raises:
        ShapeError: if the shapes differ.
    Source: arXiv 2605.00416, the n-step TD target of DIVL.
    """
    require_same_shape(
        return_B=return_B, bootstrap_discount_B=bootstrap_discount_B, bootstrap_value_B=bootstrap_value_B
    )
    return (return_B + bootstrap_discount_B * bootstrap_value_B).detach()


def _require_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma is {gamma}; the discount per control step lies in (0, 1]")
