"""Real-time chunking against Gaussian data, where the guided flow is known in closed form."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lwd.errors import ShapeError
from lwd.ops.continuing import continuing_sample, guidance_scale, guided_velocity, soft_mask
from lwd.ops.flow import ode_sample


def gaussian_velocity(mean: float, std: float):
    """E[a_1 - a_0 | a_w] when a_1 ~ N(mean, std^2) and a_0 ~ N(0, 1)."""

    def velocity(sample: Tensor, flow_time_B: Tensor) -> Tensor:
        w = flow_time_B.reshape(-1, *(1 for _ in sample.shape[1:]))
        variance = w**2 * std**2 + (1 - w) ** 2
        return mean + (w * std**2 - (1 - w)) * (sample - w * mean) / variance

    return velocity


def chunks(size: int = 3) -> tuple[Tensor, Tensor]:
    """Noise and old chunks (B, H, A)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, size, 6, 2, generator=generator, dtype=torch.float64).unbind())


def test_the_mask_is_one_on_frozen_steps_fades_over_the_overlap_and_ends():
    # c = 3/4, 2/4, 1/4 on the three steps after the two frozen ones.
    faded = [c * math.expm1(c) / (math.e - 1) for c in (0.75, 0.5, 0.25)]
    assert_close(soft_mask(7, frozen=2, overlap=5), torch.tensor([1, 1, *faded, 0, 0]))
    assert_close(soft_mask(3, frozen=3, overlap=3), torch.ones(3))
    assert_close(soft_mask(3, frozen=0, overlap=0), torch.zeros(3))
    for frozen, overlap in ((3, 2), (-1, 2), (2, 5)):
        with pytest.raises(ShapeError, match=f"frozen is {frozen}, overlap {overlap}, horizon 4"):
            soft_mask(4, frozen, overlap)


def test_the_scale_is_the_papers_and_never_above_its_limit():
    # (1 - w) / (w r^2) with r^2 = (1 - w)^2 / (w^2 + (1 - w)^2): 1 / (1/2) at one half, (1/3) / (1/10) ... by hand.
    assert_close(guidance_scale(torch.tensor([0.5, 0.75]), 100.0), torch.tensor([2.0, 10 / 3]))
    assert_close(guidance_scale(torch.tensor([0.0, 0.5, 0.99]), 5.0), torch.tensor([5.0, 2.0, 5.0]))


def test_one_guided_velocity_is_that_of_the_linear_field():
    mean, std = 0.3, 0.4
    noise, target = chunks()
    w_B = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    weight_H1 = soft_mask(6, 2, 4).unsqueeze(-1)
    guided = guided_velocity(
        gaussian_velocity(mean, std), noise, w_B, target=target, weight=weight_H1, max_scale=1000.0
    )
    w = w_B.reshape(-1, 1, 1)
    variance = w**2 * std**2 + (1 - w) ** 2
    # The data it leads to is the posterior's mean; its derivative is w std^2 / variance.
    data = mean + w * std**2 / variance * (noise - w * mean)
    pull = w * std**2 / variance * weight_H1 * (target - data)
    scale = (w**2 + (1 - w) ** 2) / (w * (1 - w))
    assert_close(guided, gaussian_velocity(mean, std)(noise, w_B) + scale * pull)


def test_for_standard_normal_data_the_guided_velocity_is_the_straight_line_to_the_target():
    noise, target = chunks()
    w_B = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    guided = guided_velocity(
        gaussian_velocity(0, 1), noise, w_B, target=target, weight=torch.ones(1, dtype=torch.float64), max_scale=1e9
    )
    assert_close(guided, (target - noise) / (1 - w_B).reshape(-1, 1, 1))


def test_frozen_steps_become_the_executed_ones_in_the_limit_and_free_ones_stay_the_flows():
    noise, target = chunks()
    weight_H1 = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64).unsqueeze(-1)
    field = gaussian_velocity(0.3, 0.4)
    errors = []
    for steps in (10, 100, 1000):
        chunk = continuing_sample(field, noise, steps, target=target, weight=weight_H1)
        errors.append(float((chunk - target)[:, :3].abs().max()))
        # Entries that do not depend on each other: nothing reaches the free ones.
        assert_close(chunk[:, 3:], ode_sample(field, noise, steps)[:, 3:])
    # First order in the step.
    assert errors[0] < 0.5
    assert errors[1] < errors[0] / 7
    assert errors[2] < errors[1] / 7


def test_free_steps_follow_frozen_ones_as_far_as_the_data_say_so():
    # Two entries with correlation rho: given the first is y, the second is N(rho y, 1 - rho^2).
    rho, y = 0.8, 1.5
    covariance = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)

    def velocity(sample: Tensor, flow_time_B: Tensor) -> Tensor:
        w = flow_time_B[0]
        eye = torch.eye(2, dtype=torch.float64)
        return sample @ (torch.linalg.inv(w**2 * covariance + (1 - w) ** 2 * eye) @ (w * covariance - (1 - w) * eye))

    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chunk = continuing_sample(
        velocity,
        noise,
        50,
        target=torch.full_like(noise, y),
        weight=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    assert_close(chunk[:, 0], torch.full((4000,), y, dtype=torch.float64), atol=0.1, rtol=0)
    assert float(chunk[:, 1].mean()) == pytest.approx(rho * y, abs=0.12)
    assert float(chunk[:, 1].std()) < 1


def test_without_weight_it_is_the_plain_sampler_and_leaves_no_gradient():
    noise, target = chunks()
    layer = torch.nn.Linear(2, 2, dtype=torch.float64)
    chunk = continuing_sample(
        lambda sample, _: torch.tanh(layer(sample)), noise, 5, target=target, weight=torch.zeros(6, 1)
    )
    assert_close(chunk, ode_sample(lambda sample, _: torch.tanh(layer(sample)), noise, 5).detach())
    assert not chunk.requires_grad
    assert layer.weight.grad is None
