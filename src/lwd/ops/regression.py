"""Asymmetric regression losses |level - 1(u < 0)| |u|^p: p = 1 fits a quantile, p = 2 an expectile.

The residual is u = target - prediction. Losses are elementwise, not reduced.
Source: arXiv 2605.00416 (LWD), Proposition 1; arXiv 2110.06169 (IQL).
"""

import torch
from torch import Tensor

from lwd.errors import ConfigError


def pinball_loss(residual: Tensor, level: Tensor | float) -> Tensor:
    """Return |level - 1(u < 0)| |u| elementwise; its minimiser over constants is the quantile.

    Args:
        residual: (...) target - prediction.
        level: in (0, 1), a number or a tensor that broadcasts to the residual.
    Source: arXiv 2605.00416, Proposition 1 with p = 1.
    """
    return _asymmetry(residual, level) * residual.abs()


def expectile_loss(residual: Tensor, level: Tensor | float) -> Tensor:
    """Return |level - 1(u < 0)| u^2 elementwise; its minimiser over constants is the expectile.

    Args:
        residual: (...) target - prediction.
        level: in (0, 1), a number or a tensor that broadcasts to the residual.
    Source: arXiv 2110.06169, L2^tau; arXiv 2605.00416, Proposition 1 with p = 2.
    """
    return _asymmetry(residual, level) * residual.square()


def _asymmetry(residual: Tensor, level: Tensor | float) -> Tensor:
    if isinstance(level, float) and not 0 < level < 1:
        raise ConfigError(f"level is {level}; quantile and expectile levels lie in (0, 1)")
    return torch.where(residual < 0, 1 - level, level).to(residual.dtype)
