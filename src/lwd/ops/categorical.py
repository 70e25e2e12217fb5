"""Distributional implicit value learning: categorical value distributions and their statistics.

`...` in a shape is any leading batch shape. Losses are not reduced over it.
Source: arXiv 2605.00416 (LWD), DIVL; arXiv 1707.06887 (C51) for the projection.
"""

import math

import torch
from torch import Tensor

from lwd.errors import ConfigError, ShapeError
from lwd.ops.shapes import require_atoms, require_last_dimension, require_same_shape, require_shape


def support(
    num_atoms: int,
    low: float,
    high: float,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return evenly spaced atoms_K from `low` to `high`, both included.

    Raises:
        ConfigError: with fewer than 2 atoms, or unless low < high.
    """
    if num_atoms < 2:
        raise ConfigError(f"num_atoms is {num_atoms}; a categorical value needs at least 2 atoms")
    if not low < high:
        raise ConfigError(f"the support's low {low} must be below its high {high}")
    return torch.linspace(low, high, num_atoms, dtype=dtype, device=device)


def two_hot(value: Tensor, atoms_K: Tensor) -> Tensor:
    """Project scalars onto the two neighbouring atoms, keeping the mean.

    Values outside the support are clipped to it first. A value that is an atom becomes a Dirac.

    Args:
        value: (...), any values.
        atoms_K: strictly increasing support, not necessarily evenly spaced.
    Returns:
        probs (..., K), rows sum to 1.
    Raises:
        ShapeError: if `atoms_K` is no vector of at least two atoms.
    Source: arXiv 1707.06887, Algorithm 1 for a Dirac; arXiv 2605.00416, the value target of DIVL.
    """
    require_atoms(atoms_K)
    last = atoms_K.shape[0] - 1
    clipped = value.clamp(min=atoms_K[0], max=atoms_K[-1]).contiguous()
    upper = torch.searchsorted(atoms_K, clipped, right=True).clamp(1, last)
    lower = upper - 1
    upper_weight = (clipped - atoms_K[lower]) / (atoms_K[upper] - atoms_K[lower])
    probs = clipped.new_zeros((*clipped.shape, last + 1))
    probs = probs.scatter(-1, lower.unsqueeze(-1), (1 - upper_weight).unsqueeze(-1))
    return probs.scatter(-1, upper.unsqueeze(-1), upper_weight.unsqueeze(-1))


def categorical_mean(probs: Tensor, atoms_K: Tensor) -> Tensor:
    """Return the mean (...) of categorical distributions `probs` (..., K)."""
    require_atoms(atoms_K)
    require_last_dimension("probs", probs, atoms_K.shape[0])
    return probs @ atoms_K


def categorical_quantile(probs: Tensor, atoms_K: Tensor, quantile_level: Tensor) -> Tensor:
    """Return the first atom whose cumulative probability reaches the level.

    The last atom is returned where rounding leaves the CDF just under the level.

    Args:
        probs: (..., K), rows sum to 1.
        atoms_K: increasing support.
        quantile_level: (...) in (0, 1].
    Returns:
        value (...), in the units of the atoms; it carries no gradient.
    Raises:
        ShapeError: if the shapes do not agree.
    Source: arXiv 2605.00416, Eq. (13), (23): inf{z : F(z) >= tau}.
    """
    require_atoms(atoms_K)
    require_shape("probs", probs, (*quantile_level.shape, atoms_K.shape[0]))
    below = probs.detach().cumsum(-1) < quantile_level.detach().unsqueeze(-1)
    return atoms_K[below.sum(-1).clamp(max=atoms_K.shape[0] - 1)]


def normalized_entropy(probs: Tensor) -> Tensor:
    """Return the entropy (...) of `probs` (..., K) divided by log K: 0 for a Dirac, 1 for the uniform.

    Exact where probabilities are 0 (0 log 0 = 0).

    Raises:
        ShapeError: with fewer than two atoms, where log K is 0.
    Source: arXiv 2605.00416, H(s) of the adaptive quantile level.
    """
    if probs.ndim == 0 or probs.shape[-1] < 2:
        raise ShapeError(f"probs has shape {tuple(probs.shape)}; expected (..., K) with K >= 2")
    entropy: Tensor = torch.special.entr(probs).sum(-1)
    return entropy / math.log(probs.shape[-1])


def adaptive_quantile_level(entropy: Tensor, *, base: float, entropy_weight: float, low: float, high: float) -> Tensor:
    """Return clip(base - entropy_weight * entropy, low, high): the less certain, the more pessimistic.

    Args:
        entropy: (...) normalised entropy in [0, 1].
    Returns:
        quantile_level (...), without gradient.
    Raises:
        ConfigError: unless 0 < low <= high <= 1.
    Source: arXiv 2605.00416, tau(s) = clip(tau_base - alpha H(s), tau_min, tau_max).
    """
    if not 0 < low <= high <= 1:
        raise ConfigError(f"quantile levels low {low} and high {high} must satisfy 0 < low <= high <= 1")
    return (base - entropy_weight * entropy.detach()).clamp(low, high)


def categorical_cross_entropy(logits: Tensor, target_probs: Tensor) -> Tensor:
    """Return the cross entropy (...) from `target_probs` (..., K) to softmax(`logits`) (..., K), unreduced.

    The target carries no gradient.

    Raises:
        ShapeError: if the shapes differ.
    Source: arXiv 2605.00416, the value loss of DIVL.
    """
    require_same_shape(logits=logits, target_probs=target_probs)
    return -(target_probs.detach() * logits.log_softmax(-1)).sum(-1)
