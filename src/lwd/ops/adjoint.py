"""Adjoint matching: from the critic's gradient at a generated action to a regression target for the velocity.

N flow steps of size h = 1 / N; step i starts at flow time w = i h. Samples have shape (B, ...).
Source: arXiv 2409.08861 (Adjoint Matching), arXiv 2601.14234 (QAM), arXiv 2605.00416 (LWD).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lwd.errors import ConfigError, ShapeError
from lwd.ops.flow import VelocityFn
from lwd.ops.shapes import require_same_shape, require_shape

VelocityVJP = Callable[[int, Tensor], Tensor]
"""(step index i, cotangent (B, ...)) -> cotangent^T d velocity(a, w + h) / d a at a = a_i, (B, ...)."""


def lean_adjoint(velocity_fn: VelocityFn, trajectory: Tensor, terminal_adjoint: Tensor) -> Tensor:
    """Solve the lean adjoint backwards along a trajectory of the reference flow, by autograd.

    g <- g + h * VJP of [2 v(a, w + h) - a / (w + h)] at a_w, from g_1 down to w = 0. The velocity is
    linearised at w + h, not at w: where base and critic are linear-Gaussian (N = 10, base std 1) that
    recovers 88 % of the exact shift of the mean, and w only 68 %.

    Args:
        velocity_fn: the reference flow; only its gradient with respect to the sample is taken.
        trajectory: (N + 1, B, ...) from `memoryless_sde_rollout`. Rolled out by the policy in training, the
            loss has its optimum at pi_beta exp(Q / temperature). Rolled out by the reference (LWD's reading)
            that holds only where Q is linear in the action: a concave Q is overshot, because its gradient is
            taken at actions that the policy has left.
        terminal_adjoint: (B, ...) = -grad_a Q(s, a_1) / temperature.
    Returns:
        adjoints (N, B, ...): g at the start of each step, without gradient.
    Raises:
        ShapeError: if the shapes do not agree.
    Source: arXiv 2601.14234; arXiv 2409.08861, the lean adjoint.
    """
    num_steps = _num_steps(trajectory)
    require_shape("terminal_adjoint", terminal_adjoint, trajectory.shape[1:])

    def vjp(index: int, cotangent: Tensor) -> Tensor:
        sample = trajectory[index].detach().requires_grad_(True)
        flow_time_B = torch.full(sample.shape[:1], (index + 1) / num_steps, dtype=sample.dtype, device=sample.device)
        with torch.enable_grad():
            velocity = velocity_fn(sample, flow_time_B)
            require_shape("velocity", velocity, sample.shape)
            (product,) = torch.autograd.grad(velocity, sample, cotangent)
        return product

    return lean_adjoint_from_vjp(vjp, terminal_adjoint, num_steps)


def lean_adjoint_from_vjp(vjp: VelocityVJP, terminal_adjoint: Tensor, num_steps: int) -> Tensor:
    """Solve the lean adjoint with the caller's vector-Jacobian products of the velocity.

    The forward passes at (a_w, w + h) do not depend on the adjoint: a model can run all N of them as one
    batch of N * B rows, keep its activations and offer the N sequential products. Autograd cannot split the
    graph of such a batch: each product through it costs as much as N of them.

    Args:
        vjp: vjp(i, g) = g^T d v(a, (i + 1) h) / d a at a = trajectory[i].
        terminal_adjoint: (B, ...) = -grad_a Q(s, a_1) / temperature.
        num_steps: N.
    Returns:
        adjoints (N, B, ...): g at the start of each step, without gradient.
    Raises:
        ConfigError: if num_steps < 1.
        ShapeError: if a product has another shape than the adjoint.
    Source: arXiv 2601.14234.
    """
    if num_steps < 1:
        raise ConfigError(f"num_steps is {num_steps}; a flow needs at least one step")
    step = 1 / num_steps
    adjoint = terminal_adjoint.detach()
    adjoints = [adjoint] * num_steps
    for index in reversed(range(num_steps)):
        product = vjp(index, adjoint).detach()
        require_shape(f"vjp({index}, adjoint)", product, adjoint.shape)
        # The term -a / (w + h) has the Jacobian -I / (w + h), with w + h = (index + 1) h.
        adjoint = torch.add(adjoint * (index / (index + 1)), product, alpha=2 * step)
        adjoints[index] = adjoint
    return torch.stack(adjoints)


def adjoint_matching_loss(velocity_delta: Tensor, adjoint: Tensor, sigma_N: Tensor) -> Tensor:
    """Return sum_w || 2 (f_theta - f_beta)(s, a_w, w) / sigma_w + sigma_w g_w ||^2.

    Args:
        velocity_delta: (N, B, ...) policy minus reference velocity at the trajectory's a_w and w.
        adjoint: (N, B, ...) from `lean_adjoint`; no gradient flows into it.
        sigma_N: `memoryless_sigma(flow_times(N), 1 / N)`.
    Returns:
        scalar: summed over the flow steps and over a sample's entries, averaged over the batch B.
    Raises:
        ShapeError: if the shapes do not agree.
    Source: arXiv 2605.00416, the policy loss; arXiv 2601.14234.
    """
    require_same_shape(velocity_delta=velocity_delta, adjoint=adjoint)
    if velocity_delta.ndim < 2:
        raise ShapeError(f"velocity_delta has shape {tuple(velocity_delta.shape)}; expected (N, B, ...)")
    require_shape("sigma_N", sigma_N, velocity_delta.shape[:1])
    sigma = sigma_N.reshape(-1, *(1 for _ in velocity_delta.shape[1:]))
    residual = 2 * velocity_delta / sigma + sigma * adjoint.detach()
    return residual.square().sum() / velocity_delta.shape[1]


def _num_steps(trajectory: Tensor) -> int:
    if trajectory.ndim < 2 or trajectory.shape[0] < 2:
        raise ShapeError(f"trajectory has shape {tuple(trajectory.shape)}; expected (N + 1, B, ...), N >= 1")
    return trajectory.shape[0] - 1
