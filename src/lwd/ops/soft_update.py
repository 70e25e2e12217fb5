"""Exponential moving averages of parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lwd.errors import ConfigError, ShapeError


@torch.no_grad()
def soft_update(target_params: Iterable[Tensor], source_params: Iterable[Tensor], polyak_rate: float) -> None:
    """Move the target towards the source in place: target <- (1 - rate) target + rate source.

    Args:
        target_params: tensors to change, such as `target.parameters()`.
        source_params: as many tensors of the same shapes, in the same order.
        polyak_rate: in [0, 1]; 1 copies.
    Raises:
        ShapeError: if the numbers or the shapes of the tensors differ.
        ConfigError: if the rate is outside [0, 1].
    Source: arXiv 2605.00416, the EMA of the target critic.
    """
    targets, sources = list(target_params), list(source_params)
    if not 0 <= polyak_rate <= 1:
        raise ConfigError(f"polyak_rate is {polyak_rate}; it lies in [0, 1]")
    if [tensor.shape for tensor in targets] != [tensor.shape for tensor in sources]:
        raise ShapeError("target and source parameters differ in number or shapes; build both from one config")
    if targets:
        torch._foreach_lerp_(targets, sources, polyak_rate)
