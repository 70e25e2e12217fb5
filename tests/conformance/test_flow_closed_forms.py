"""Flows and their samplers against the Gaussian case, where everything is linear and known.

A linear sampler is measured exactly, without Monte Carlo: row j of the batch carries the response to unit
noise in source j, so covariances are sums over rows.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lwd.errors import ConfigError, ShapeError
from lwd.ops.flow import (
    VelocityFn,
    flow_matching_loss,
    flow_matching_target,
    flow_times,
    interpolate,
    memoryless_sde_rollout,
    memoryless_sigma,
    ode_sample,
)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_velocity_is_the_derivative_of_the_path(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    noise, data = torch.randn(2, 4, 3, 2, dtype=dtype, generator=rng).unbind(0)
    flow_time_B = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=dtype)
    path = interpolate(noise, data, flow_time_B)
    assert_close(path[0], noise[0])
    assert_close(path[3], data[3])
    ahead = interpolate(noise, data, flow_time_B + 0.5)
    assert_close((ahead - path) / 0.5, flow_matching_target(noise, data))


def test_flow_matching_loss_by_hand_with_mask_and_nan_padding() -> None:
    noise = torch.zeros(2, 2, 2)
    data = torch.ones(2, 2, 2)
    velocity = torch.tensor([[[1.0, 3.0], [1.0, 1.0]], [[math.nan, 1.0], [math.nan, 1.0]]], requires_grad=True)
    mask = torch.tensor([[True, True], [False, False]])
    loss = flow_matching_loss(velocity, noise, data, mask)
    assert_close(loss, torch.tensor(1.0))  # one squared error of 4 among four entries
    loss.backward()
    assert velocity.grad is not None
    assert_close(velocity.grad[0], torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert_close(flow_matching_loss(torch.zeros(2, 2, 2), noise, data), torch.tensor(1.0))
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert flow_matching_loss(torch.zeros(2, 2, 2), noise, data, nothing) == 0


def test_flow_matching_loss_is_smallest_at_the_conditional_mean() -> None:
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(200_000, 1, dtype=torch.float64, generator=rng)
    data = 0.4 + 0.5 * torch.randn(200_000, 1, dtype=torch.float64, generator=rng)
    flow_time_B = torch.full((200_000,), 0.6, dtype=torch.float64)
    sample = interpolate(noise, data, flow_time_B)
    velocity = gaussian_velocity(0.4, 0.5)(sample, flow_time_B)
    best = flow_matching_loss(velocity, noise, data)
    assert best < flow_matching_loss(1.02 * velocity, noise, data)
    assert best < flow_matching_loss(0.98 * velocity, noise, data)
    assert best < flow_matching_loss(velocity + 0.02, noise, data)


@pytest.mark.parametrize("num_steps", [1, 10])
def test_euler_is_exact_for_a_constant_velocity(num_steps: int) -> None:
    noise = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    sample = ode_sample(lambda x, w: torch.full_like(x, 2.0), noise, num_steps)
    assert_close(sample, noise + 2)


def test_the_ode_maps_a_standard_normal_to_the_data_with_first_order_error() -> None:
    errors = []
    for num_steps in (50, 100, 200):
        ends = ode_sample(gaussian_velocity(0.3, 0.5), torch.tensor([[0.0], [1.0]], dtype=torch.float64), num_steps)
        mean, std = ends[0].item(), (ends[1] - ends[0]).item()
        assert mean == pytest.approx(0.3, abs=1e-9)
        errors.append(abs(std - 0.5))
    assert errors[-1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.15)


def test_a_flow_whose_time_runs_backwards_gives_the_same_samples_after_the_flip() -> None:
    def external(x: Tensor, time_B: Tensor) -> Tensor:  # time 1 is noise, integrated downwards
        return torch.tanh(x) * time_B[:, None] - 0.3

    noise = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = noise
    for index in range(8):
        time_B = torch.full((5,), 1 - index / 8, dtype=torch.float64)
        expected = expected - external(expected, time_B) / 8
    assert_close(ode_sample(lambda x, w: -external(x, 1 - w), noise, 8), expected)


def test_sigma_by_hand_and_its_limit() -> None:
    assert_close(memoryless_sigma(torch.tensor([0.0, 0.9]), 0.1), torch.tensor([22.0, 0.4]).sqrt())
    w = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    assert_close(memoryless_sigma(w, 1e-9), (2 * (1 - w) / w).sqrt(), rtol=1e-7, atol=0)
    assert_close(flow_times(4), torch.tensor([0.0, 0.25, 0.5, 0.75]))


def test_rollout_by_hand_for_two_steps() -> None:
    noise = torch.tensor([[1.0]], dtype=torch.float64)
    step_noises = torch.tensor([[[0.5]]], dtype=torch.float64)
    trajectory, velocities = memoryless_sde_rollout(lambda x, w: x + w[:, None], noise, 2, step_noises=step_noises)
    # h = 1/2. First: v = 1, sigma^2 = 2 * 1.5 / 0.5 = 6, a = 1 + (2 - 1 / 0.5) / 2 + sqrt(6 / 2) / 2.
    first = 1 + 0.5 * (2 - 2) + math.sqrt(0.5) * math.sqrt(6) * 0.5
    # Last, the plain ODE step: v = a + 1/2.
    last = first + 0.5 * (first + 0.5)
    assert_close(trajectory.flatten(), torch.tensor([1, first, last], dtype=torch.float64))
    assert_close(velocities.flatten(), torch.tensor([1, first + 0.5], dtype=torch.float64))


@pytest.mark.parametrize("std", [0.2, 0.5, 1.0])
def test_the_memoryless_sde_forgets_its_start_and_keeps_the_data_distribution(std: float) -> None:
    """The ODE's end is a function of its start; the SDE's end is independent of it, equally distributed."""
    errors = []
    for num_steps in (50, 100, 200, 400):
        start, step_noises = responses(num_steps)
        velocity = gaussian_velocity(0.0, std)
        trajectory, _ = memoryless_sde_rollout(velocity, start, num_steps, step_noises=step_noises)
        end_sources = trajectory[-1].flatten()
        deviation = end_sources.square().sum().sqrt().item()
        assert abs(end_sources[0].item() / deviation) < 1 / num_steps  # correlation with the start
        errors.append(abs(deviation - std))
    assert errors[-1] < 0.01 * std + 0.002
    assert errors[-1] < 0.6 * errors[-2]
    ode_end = ode_sample(gaussian_velocity(0.0, std), torch.ones(1, 1, dtype=torch.float64), 400)
    assert ode_end.item() == pytest.approx(std, rel=0.02)  # correlation 1


def test_the_memoryless_sde_keeps_every_intermediate_marginal() -> None:
    start, step_noises = responses(800)
    trajectory, _ = memoryless_sde_rollout(gaussian_velocity(0.0, 0.5), start, 800, step_noises=step_noises)
    variance_N = trajectory.square().sum((1, 2))
    for index in (80, 400, 720):
        w = index / 800
        assert variance_N[index].item() == pytest.approx(w**2 * 0.25 + (1 - w) ** 2, rel=0.02)


def test_a_rollout_repeats_with_the_generators_seed_and_keeps_the_dtype() -> None:
    velocity = gaussian_velocity(0.1, 0.5)
    noise = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))

    def roll(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return memoryless_sde_rollout(velocity, noise, 5, generator=rng)[0]

    assert roll(1).shape == (6, 4, 3, 2)
    assert roll(1).dtype is torch.float32
    assert torch.equal(roll(1), roll(1))
    assert not torch.equal(roll(1), roll(2))


def test_wrong_shapes_and_settings_are_refused() -> None:
    noise = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match="must be equal"):
        interpolate(noise, torch.zeros(3), torch.zeros(2))
    with pytest.raises(ShapeError, match=r"flow_time_B has shape \(\)"):
        interpolate(noise, noise, torch.tensor(0.5))
    with pytest.raises(ShapeError, match="mask has shape"):
        flow_matching_loss(noise, noise, noise, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ConfigError, match="num_steps is 0"):
        ode_sample(lambda x, w: x, noise, 0)
    with pytest.raises(ConfigError, match="exactly one"):
        memoryless_sde_rollout(lambda x, w: x, noise, 3)
    with pytest.raises(ShapeError, match="step_noises"):
        memoryless_sde_rollout(lambda x, w: x, noise, 3, step_noises=torch.zeros(3, 2, 3))
