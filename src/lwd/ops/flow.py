"""Flow matching and the sampling of flows. Flow time 0 is noise, 1 is data.

Samples have shape (B, ...): usually action chunks (B, H, A). `velocity_fn(sample, flow_time_B)` returns the
velocity in the shape of the sample.
Source: arXiv 2210.02747 (Flow Matching), arXiv 2409.08861 (Adjoint Matching), arXiv 2601.14234 (QAM).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lwd.errors import ConfigError
from lwd.ops.shapes import require_same_shape, require_shape

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""(sample (B, ...), flow_time_B) -> velocity (B, ...)."""


def interpolate(noise: Tensor, data: Tensor, flow_time_B: Tensor) -> Tensor:
    """Return (1 - w) noise + w data, with one flow time per sample.

    Args:
        noise: (B, ...).
        data: (B, ...).
        flow_time_B: in [0, 1].
    Raises:
        ShapeError: if the shapes do not agree.
    Source: arXiv 2605.00416, a_w = (1 - w) a_0 + w a_1.
    """
    require_same_shape(noise=noise, data=data)
    require_shape("flow_time_B", flow_time_B, data.shape[:1])
    flow_time = flow_time_B.reshape(-1, *(1 for _ in data.shape[1:]))
    return (1 - flow_time) * noise + flow_time * data


def flow_matching_target(noise: Tensor, data: Tensor) -> Tensor:
    """Return data - noise, the velocity of the straight path from noise to data."""
    require_same_shape(noise=noise, data=data)
    return data - noise


def flow_matching_loss(velocity: Tensor, noise: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error between the velocity and data - noise.

    Args:
        velocity: (B, ..., A) predicted at `interpolate(noise, data, flow_time)`.
        noise: (B, ..., A).
        data: (B, ..., A).
        mask: (B, ...) bool without the last dimension, such as `action_mask_BH`; False entries do not count.
    Returns:
        scalar, the mean over the entries that count (0 if none does).
    Raises:
        ShapeError: if the shapes do not agree.
    Source: arXiv 2210.02747; arXiv 2605.00416, the SFT loss.
    """
    require_same_shape(velocity=velocity, noise=noise, data=data)
    error = (velocity - flow_matching_target(noise, data)).square()
    if mask is None:
        return error.mean()
    require_shape("mask", mask, data.shape[:-1])
    counted = mask.sum() * data.shape[-1]
    return torch.where(mask.unsqueeze(-1), error, torch.zeros_like(error)).sum() / counted.clamp(min=1)


def ode_sample(velocity_fn: VelocityFn, noise: Tensor, num_steps: int) -> Tensor:
    """Integrate the flow from noise to data with `num_steps` Euler steps.

    Args:
        noise: (B, ...) standard normal.
    Returns:
        sample (B, ...) at flow time 1.
    Raises:
        ConfigError: if num_steps < 1.
    Source: arXiv 2210.02747.
    """
    _require_steps(num_steps)
    step = 1 / num_steps
    sample = noise
    for index in range(num_steps):
        sample = sample + step * velocity_fn(sample, _flow_time(sample, index * step))
    return sample


def flow_times(
    num_steps: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Return flow_time_N = 0, 1/N, ..., (N-1)/N: the start of each of N steps."""
    _require_steps(num_steps)
    return torch.arange(num_steps, dtype=dtype, device=device) / num_steps


def memoryless_sigma(flow_time: Tensor, step: float) -> Tensor:
    """Return sqrt(2 (1 - w + h) / (w + h)), the memoryless noise, shifted by a step to be finite at 0.

    Args:
        flow_time: (...) start of the step, in [0, 1].
        step: h > 0.
    Source: arXiv 2409.08861 (sqrt(2 (1 - w) / w)); arXiv 2601.14234 for the shift.
    """
    return (2 * (1 - flow_time + step) / (flow_time + step)).sqrt()


def memoryless_sde_rollout(
    velocity_fn: VelocityFn,
    noise: Tensor,
    num_steps: int,
    *,
    generator: torch.Generator | None = None,
    step_noises: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample the flow with the memoryless SDE, whose end is independent of its start.

    N = num_steps, h = 1 / N: a <- a + h (2 v(a, w) - a / (w + h)) + sqrt(h) sigma_w eps; the last step is the
    plain ODE step a <- a + h v(a, w). The caller decides about gradients (usually `torch.no_grad()`).

    Args:
        noise: (B, ...) standard normal start.
        generator: draws the steps' noise when `step_noises` is not given.
        step_noises: (N - 1, B, ...) standard normal noise of the steps (the last step has none).
    Returns:
        trajectory (N + 1, B, ...) from noise to sample, and velocities (N, B, ...) = v(a_w, w) along it.
    Raises:
        ShapeError: if `step_noises` has the wrong shape.
        ConfigError: if num_steps < 1, or unless exactly one of `generator` and `step_noises` is given.
    Source: arXiv 2601.14234 (QAM); arXiv 2409.08861 (Adjoint Matching), section on the memoryless schedule.
    """
    _require_steps(num_steps)
    if (generator is None) == (step_noises is None):
        raise ConfigError("give exactly one of generator and step_noises, so that a rollout can be repeated")
    if step_noises is None:
        step_noises = torch.randn(
            (num_steps - 1, *noise.shape), generator=generator, dtype=noise.dtype, device=noise.device
        )
    require_shape("step_noises", step_noises, (num_steps - 1, *noise.shape))
    step = 1 / num_steps
    sigma_N = memoryless_sigma(flow_times(num_steps, dtype=noise.dtype, device=noise.device), step)
    kicks = step_noises * (math.sqrt(step) * sigma_N[:-1]).reshape(-1, *(1 for _ in noise.shape))
    sample = noise
    trajectory, velocities = [sample], []
    for index in range(num_steps):
        velocity = velocity_fn(sample, _flow_time(sample, index * step))
        velocities.append(velocity)
        if index < num_steps - 1:
            # With w + h = (index + 1) h, the drift's share -h a / (w + h) is -a / (index + 1).
            kept = torch.add(kicks[index], sample, alpha=index / (index + 1))
            sample = kept.add_(velocity, alpha=2 * step)
        else:
            sample = sample + step * velocity
        trajectory.append(sample)
    return torch.stack(trajectory), torch.stack(velocities)


def _flow_time(sample: Tensor, value: float) -> Tensor:
    """One flow time for all samples, expanded: a model can tell by its stride that one embedding serves them all."""
    return torch.full((1,), value, dtype=sample.dtype, device=sample.device).expand(sample.shape[:1])


def _require_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ConfigError(f"num_steps is {num_steps}; a flow needs at least one step")
