"""Real-time chunking: a flow's sample that goes on from the actions that are still being executed.

The new chunk is predicted while the old one runs. Its first entries will be over before it is there, so they have to be
the old ones; the entries after them may change, the less the sooner they come. Both is inpainting: at every flow step
the velocity is steered so that the data it leads to agrees with the old chunk, entry by entry as strongly as a weight
says. Flow time 0 is noise, 1 is data.
Source: arXiv 2506.07339 (Real-Time Execution of Action Chunking Flow Policies); PiGDM is arXiv 2310.04432.
"""

import math

import torch
from torch import Tensor

from lwd.errors import ShapeError
from lwd.ops.flow import VelocityFn, ode_sample
from lwd.ops.shapes import require_same_shape


def soft_mask(horizon: int, frozen: int, overlap: int) -> Tensor:
    """Return weight_H: how much each entry of the new chunk is held to the old one.

    1 on the `frozen` entries that are executed while the chunk is computed; c (e^c - 1) / (e - 1) with
    c = (overlap - i) / (overlap - frozen + 1) on entry i of the other ones that the old chunk has too; 0 after them.

    Raises:
        ShapeError: unless 0 <= frozen <= overlap <= horizon.
    Source: arXiv 2506.07339, Eq. (5), with d = frozen and H - s = overlap.
    """
    if not 0 <= frozen <= overlap <= horizon:
        raise ShapeError(f"frozen is {frozen}, overlap {overlap}, horizon {horizon}; they have to grow in this order")
    c_H = ((overlap - torch.arange(horizon)) / (overlap - frozen + 1)).clamp(0, 1)
    weight_H = c_H * torch.expm1(c_H) / (math.e - 1)
    weight_H[:frozen] = 1
    return weight_H


def guidance_scale(flow_time: Tensor, max_scale: float) -> Tensor:
    """Return min(max_scale, (1 - w) / (w r^2)), r^2 = (1 - w)^2 / (w^2 + (1 - w)^2), for flow times (...) in [0, 1).

    Source: arXiv 2506.07339, Eq. (2) and (4).
    """
    left = 1 - flow_time
    # Division by zero at w = 0 gives infinity, which the limit catches.
    return ((flow_time.square() + left.square()) / (flow_time * left)).clamp(max=max_scale)


def guided_velocity(
    velocity_fn: VelocityFn,
    sample: Tensor,
    flow_time_B: Tensor,
    *,
    target: Tensor,
    weight: Tensor,
    max_scale: float,
) -> Tensor:
    """Return the velocity, steered so that the data it leads to agrees with a target.

    With d(a) = a + (1 - w) v(a, w), the data the sample leads to, it is v + scale (dd/da)^T weight (target - d): one
    backward pass besides the forward pass. (LeRobot 0.6.1 leaves v out of dd/da: it computes v before it asks for
    gradients.)

    Args:
        sample: (B, ...).
        target: (B, ...); its entries of weight 0 do not matter.
        weight: broadcasts to (B, ...), in [0, 1].
    Returns:
        velocity (B, ...), without gradient.
    Raises:
        ShapeError: if the shapes do not agree.
    Source: arXiv 2506.07339, Eq. (2) and (3).
    """
    require_same_shape(sample=sample, target=target)
    shape = (-1, *(1 for _ in sample.shape[1:]))
    scale, left = (time_B.reshape(shape) for time_B in (guidance_scale(flow_time_B, max_scale), 1 - flow_time_B))
    with torch.enable_grad():
        start = sample.detach().requires_grad_()
        velocity = velocity_fn(start, flow_time_B)
        data = start + left * velocity
    (correction,) = torch.autograd.grad(data, start, weight * (target - data.detach()))
    return velocity.detach() + scale * correction


def continuing_sample(
    velocity_fn: VelocityFn, noise: Tensor, num_steps: int, *, target: Tensor, weight: Tensor
) -> Tensor:
    """Integrate the flow from noise to data that agrees with a target, with `num_steps` Euler steps.

    The largest scale is num_steps: more would overshoot the target within one step.

    Args:
        noise: (B, ...) standard normal.
        target: (B, ...), see `guided_velocity`.
        weight: broadcasts to (B, ...), in [0, 1].
    Returns:
        sample (B, ...) at flow time 1, without gradient.
    Raises:
        ShapeError: if the shapes do not agree.
        ConfigError: if num_steps < 1.
    """

    def steered(sample: Tensor, flow_time_B: Tensor) -> Tensor:
        return guided_velocity(
            velocity_fn, sample, flow_time_B, target=target, weight=weight, max_scale=float(num_steps)
        )

    return ode_sample(steered, noise, num_steps)
