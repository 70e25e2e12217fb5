"""Our real-time chunking beside LeRobot's `RTCProcessor`: the same mask, scale and guidance, but for one Jacobian."""

import pytest
import torch
from lerobot.configs.types import RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor

from lwd.ops.continuing import guided_velocity, soft_mask

HORIZON, ACTIONS, STEPS = 8, 3, 10
FROZEN, OVERLAP = 2, 6


def draws(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sample, target, slope = (torch.randn(2, HORIZON, ACTIONS, generator=generator) for _ in range(3))
    target[:, OVERLAP:] = 0
    return sample, target, slope


def theirs(velocity, sample: torch.Tensor, target: torch.Tensor, flow_time: float) -> torch.Tensor:
    """LeRobot's guided velocity, in our direction: its time runs from 1 to 0, its velocity from data to noise."""
    config = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP, max_guidance_weight=float(STEPS))
    return -RTCProcessor(config).denoise_step(
        x_t=sample,
        prev_chunk_left_over=target,
        inference_delay=FROZEN,
        time=1 - flow_time,
        original_denoise_step_partial=lambda x: -velocity(x),
        execution_horizon=OVERLAP,
    )


def ours(velocity, sample: torch.Tensor, target: torch.Tensor, flow_time: float) -> torch.Tensor:
    weight_HA = soft_mask(HORIZON, FROZEN, OVERLAP).unsqueeze(-1)
    times = torch.full((2,), flow_time)
    return guided_velocity(
        lambda x, _: velocity(x), sample, times, target=target, weight=weight_HA, max_scale=float(STEPS)
    )


@pytest.mark.parametrize("flow_time", [0.0, 0.1, 0.5, 0.9])
def test_it_equals_lerobots_where_the_velocity_does_not_depend_on_the_sample(flow_time: float) -> None:
    sample, target, slope = draws(0)
    # Of the sample only by name: autograd needs a path.
    torch.testing.assert_close(
        ours(lambda x: slope + 0 * x, sample, target, flow_time),
        theirs(lambda x: slope + 0 * x, sample, target, flow_time),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("flow_time", [0.1, 0.5, 0.9])
def test_ours_alone_has_the_velocitys_jacobian(flow_time: float) -> None:
    """For v = k a the correction is 1 + (1 - w) k times LeRobot's, which takes v for a constant."""
    sample, target, slope = draws(1)
    plain = slope * sample
    ratio = 1 + (1 - flow_time) * slope
    own = ours(lambda x: slope * x, sample, target, flow_time) - plain
    other = theirs(lambda x: slope * x, sample, target, flow_time) - plain
    assert other.abs().max() > 0.1
    torch.testing.assert_close(own, ratio * other, atol=1e-4, rtol=1e-4)
