"""Adjoint matching against Gaussian tilts, where the exact answer is known.

Base N(mu, s^2), critic Q, temperature 1 / beta, D = w^2 s^2 + (1 - w)^2.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lwd.errors import ConfigError, ShapeError
from lwd.ops.adjoint import adjoint_matching_loss, lean_adjoint, lean_adjoint_from_vjp
from lwd.ops.flow import VelocityFn, flow_times, memoryless_sde_rollout, memoryless_sigma

F64 = torch.float64


def gaussian_velocity(mean: float, std: float) -> VelocityFn:
    """E[a_1 - a_0 | a_w] when a_1 ~ N(mean, std^2) and a_0 ~ N(0, 1)."""

    def velocity(sample: Tensor, flow_time_B: Tensor) -> Tensor:
        w = flow_time_B.reshape(-1, *(1 for _ in sample.shape[1:]))
        variance = w**2 * std**2 + (1 - w) ** 2
        return mean + (w * std**2 - (1 - w)) * (sample - w * mean) / variance

    return velocity


def responses(num_steps: int) -> tuple[Tensor, Tensor]:
    """Return the start (N, 1) and the step noises (N - 1, N, 1) whose rows are unit noise sources."""
    basis = torch.eye(num_steps, dtype=torch.float64)
    return basis[0].reshape(num_steps, 1), basis[1:].reshape(num_steps - 1, num_steps, 1)


def linear_critic_adjoint(mean: float, std: float, slope: float, num_steps: int) -> Tensor:
    """Adjoints (N,) for Q = slope * a at temperature 1; they do not depend on the trajectory."""
    velocity = gaussian_velocity(mean, std)
    noise = torch.randn(3, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    trajectory, _ = memoryless_sde_rollout(velocity, noise, num_steps, generator=torch.Generator().manual_seed(1))
    adjoint = lean_adjoint(velocity, trajectory, torch.full((3, 1), -slope, dtype=F64))
    assert_close(adjoint[:, 0], adjoint[:, 2])
    return adjoint[:, 0, 0]


def sigma(num_steps: int) -> Tensor:
    return memoryless_sigma(flow_times(num_steps, dtype=F64), 1 / num_steps)


def test_lean_adjoint_converges_to_the_closed_form_at_first_order() -> None:
    mean, std, slope = 0.3, 0.5, 1.5
    errors = []
    for num_steps in (50, 100, 200, 400, 800):
        w = flow_times(num_steps, dtype=F64)
        exact = -slope * std**2 * w / (w**2 * std**2 + (1 - w) ** 2)
        error = (linear_critic_adjoint(mean, std, slope, num_steps) - exact).abs()
        errors.append(error[w >= 0.2].max().item())
    assert errors[-1] < 0.01
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.2)


def test_the_velocity_change_converges_to_the_closed_form() -> None:
    std, slope, num_steps = 0.5, 1.5, 800
    w = flow_times(num_steps, dtype=F64)
    change = -(sigma(num_steps) ** 2) * linear_critic_adjoint(0.0, std, slope, num_steps) / 2
    exact = slope * std**2 * (1 - w) / (w**2 * std**2 + (1 - w) ** 2)
    assert_close(change[w >= 0.2], exact[w >= 0.2], atol=0.02, rtol=0)


@pytest.mark.parametrize(("std", "shift"), [(1.0, 0.879), (0.5, 0.262), (0.2, 0.053)])
def test_ten_steps_recover_the_known_part_of_the_shift(std: float, shift: float) -> None:
    """The velocity's Jacobian at w + h: at w the shifts would be .676, .179 and .024 (exact: std^2)."""
    change_N = -(sigma(10) ** 2) * linear_critic_adjoint(0.0, std, 1.0, 10) / 2
    velocity = gaussian_velocity(0.0, std)
    sample = torch.zeros(1, 1, dtype=F64)
    for index in range(10):
        sample = sample + (velocity(sample, torch.tensor([index / 10], dtype=F64)) + change_N[index]) / 10
    assert sample.item() == pytest.approx(shift, abs=5e-4)


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_the_tuned_ode_ends_in_the_shifted_gaussian(std: float) -> None:
    mean, slope, num_steps = 0.3, 1.2, 800
    change_N = -(sigma(num_steps) ** 2) * linear_critic_adjoint(mean, std, slope, num_steps) / 2
    velocity = gaussian_velocity(mean, std)
    ends = torch.tensor([[0.0], [1.0]], dtype=F64)
    for index in range(num_steps):
        flow_time_B = torch.full((2,), index / num_steps, dtype=F64)
        ends = ends + (velocity(ends, flow_time_B) + change_N[index]) / num_steps
    assert ends[0].item() == pytest.approx(mean + slope * std**2, abs=0.01)
    assert (ends[1] - ends[0]).item() == pytest.approx(std, abs=0.005)


# ---- quadratic critic: the tilt changes the variance, and it matters whose trajectories are used -----------


def fit_quadratic(std: float, curvature: float, num_steps: int, *, rollout: str) -> float:
    """Return the variance of the policy that adjoint matching fits to Q = -curvature a^2 / 2, temperature 1.

    The policy is v(a, w_i) = c_i a. Each round takes half a step to the exact minimiser of the loss.
    """
    base = gaussian_velocity(0.0, std)
    w = flow_times(num_steps, dtype=F64)
    base_c = (w * std**2 - (1 - w)) / (w**2 * std**2 + (1 - w) ** 2)
    policy_c = base_c.clone()
    start, step_noises = responses(num_steps)

    def policy(sample: Tensor, flow_time_B: Tensor) -> Tensor:
        return policy_c[round(flow_time_B[0].item() * num_steps)] * sample

    for _ in range(40):
        actor = {"reference": base, "policy": policy}[rollout]
        trajectory, _ = memoryless_sde_rollout(actor, start, num_steps, step_noises=step_noises)
        adjoint = lean_adjoint(base, trajectory, curvature * trajectory[-1])
        samples = trajectory[:-1]
        delta_c = (policy_c - base_c).clone().requires_grad_()
        loss = adjoint_matching_loss(delta_c[:, None, None] * samples, adjoint, sigma(num_steps))
        (gradient,) = torch.autograd.grad(loss, delta_c)
        # The loss is quadratic in each delta_c with curvature 8 E[a^2] / sigma^2: Newton's step, halved.
        second = 8 * samples.square().sum((1, 2)) / sigma(num_steps) ** 2 / num_steps
        policy_c = policy_c - 0.5 * gradient / second
    return torch.prod(1 + policy_c / num_steps).item() ** 2


@pytest.mark.parametrize(("std", "curvature"), [(1.0, 1.0), (1.0, 3.0), (0.5, 4.0)])
def test_quadratic_critic_gives_the_exact_tilt_on_the_policys_own_trajectories(std: float, curvature: float) -> None:
    exact = 1 / (1 / std**2 + curvature)
    coarse = abs(fit_quadratic(std, curvature, 50, rollout="policy") - exact)
    fine = abs(fit_quadratic(std, curvature, 100, rollout="policy") - exact)
    assert fine < 0.05 * exact
    assert coarse / fine == pytest.approx(2, abs=0.3)


def test_trajectories_of_the_reference_overshoot_where_the_critic_is_curved() -> None:
    """On the reference's own trajectories the optimum is not pi_beta exp(Q): variance e^-k, not 1 / (1 + k).

    For a critic that is linear in the action both agree, as the tests above show.
    """
    for curvature, collapsed in ((1.0, 0.3679), (3.0, 0.0498)):
        variance = fit_quadratic(1.0, curvature, 100, rollout="reference")
        assert variance == pytest.approx(collapsed, abs=0.02)
        assert variance < 0.8 / (1 + curvature)


# ---- the functions themselves ------------------------------------------------------------------------------


def nonlinear(sample: Tensor, flow_time_B: Tensor) -> Tensor:
    mixed = sample @ torch.tensor([[0.5, -1.0], [0.8, 0.3]], dtype=sample.dtype)
    return torch.tanh(mixed + flow_time_B.reshape(-1, *(1 for _ in sample.shape[1:])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lean_adjoint_equals_explicit_jacobians(dtype: torch.dtype) -> None:
    num_steps = 4
    rng = torch.Generator().manual_seed(0)
    trajectory = torch.randn(num_steps + 1, 3, 2, dtype=dtype, generator=rng)
    terminal = torch.randn(3, 2, dtype=dtype, generator=rng)
    adjoint = lean_adjoint(nonlinear, trajectory, terminal)
    expected = terminal
    for index in reversed(range(num_steps)):
        time = (index + 1) / num_steps
        rows = []
        for b in range(3):
            jacobian = torch.autograd.functional.jacobian(
                lambda a, t=time: 2 * nonlinear(a[None], torch.tensor([t], dtype=dtype))[0] - a / t,
                trajectory[index, b],
            )
            rows.append(expected[b] + expected[b] @ jacobian / num_steps)
        expected = torch.stack(rows)
        assert_close(adjoint[index], expected)
    assert not adjoint.requires_grad


def test_lean_adjoint_with_given_products_is_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    trajectory = torch.randn(6, 3, 2, 2, dtype=F64, generator=rng)
    terminal = torch.randn(3, 2, 2, dtype=F64, generator=rng)

    def vjp(index: int, cotangent: Tensor) -> Tensor:
        time_B = torch.full((3,), (index + 1) / 5, dtype=F64)
        return torch.func.vjp(lambda a: nonlinear(a, time_B), trajectory[index])[1](cotangent)[0]

    assert_close(
        lean_adjoint_from_vjp(vjp, terminal, 5),
        lean_adjoint(nonlinear, trajectory, terminal),
        rtol=1e-12,
        atol=0,
    )


def test_loss_by_hand_and_its_reductions() -> None:
    delta = torch.zeros(2, 3, 1, 2)
    delta[1, 2, 0, 1] = 3.0
    adjoint = torch.zeros_like(delta)
    adjoint[1, 2, 0, 1] = 0.5
    sigma_N = torch.tensor([4.0, 2.0])
    # (2 * 3 / 2 + 2 * 0.5)^2 = 16, summed over steps and entries, divided by three samples.
    assert_close(adjoint_matching_loss(delta, adjoint, sigma_N), torch.tensor(16 / 3))


def test_loss_gradient_flows_into_the_velocity_only() -> None:
    delta = torch.randn(3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    adjoint = torch.randn(3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    sigma_N = sigma(3)
    adjoint_matching_loss(delta, adjoint, sigma_N).backward()
    assert adjoint.grad is None
    fixed = adjoint.detach()
    assert torch.autograd.gradcheck(lambda d: adjoint_matching_loss(d, fixed, sigma_N), (delta,))


def test_a_hot_temperature_leaves_the_reference_where_it_is() -> None:
    rng = torch.Generator().manual_seed(0)
    trajectory = torch.randn(6, 3, 2, dtype=F64, generator=rng)
    q_gradient = torch.randn(3, 2, dtype=F64, generator=rng)
    norms = []
    for temperature in (1.0, 1e3, 1e9):
        adjoint = lean_adjoint(nonlinear, trajectory, -q_gradient / temperature)
        delta = torch.zeros(5, 3, 2, dtype=F64, requires_grad=True)
        adjoint_matching_loss(delta, adjoint, sigma(5)).backward()
        assert delta.grad is not None
        norms.append(delta.grad.norm().item())
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(norms[0] / 1e3, rel=1e-9)
    assert norms[2] < 1e-7


def test_wrong_shapes_and_settings_are_refused() -> None:
    trajectory = torch.zeros(4, 2, 3)
    with pytest.raises(ShapeError, match=r"terminal_adjoint has shape \(3,\)"):
        lean_adjoint(lambda a, w: a, trajectory, torch.zeros(3))
    with pytest.raises(ShapeError, match="velocity has shape"):
        lean_adjoint(lambda a, w: a.sum(-1), trajectory, torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="trajectory has shape"):
        lean_adjoint(lambda a, w: a, torch.zeros(1, 2), torch.zeros(2))
    with pytest.raises(ShapeError, match=r"vjp\(2, adjoint\)"):
        lean_adjoint_from_vjp(lambda index, g: g[0], torch.zeros(2, 3), 3)
    with pytest.raises(ConfigError, match="num_steps is 0"):
        lean_adjoint_from_vjp(lambda index, g: g, torch.zeros(2, 3), 0)
    with pytest.raises(ShapeError, match="sigma_N"):
        adjoint_matching_loss(trajectory, trajectory, torch.ones(3))
    with pytest.raises(ShapeError, match=r"expected \(N, B, \.\.\.\)"):
        adjoint_matching_loss(torch.zeros(4), torch.zeros(4), torch.ones(4))
