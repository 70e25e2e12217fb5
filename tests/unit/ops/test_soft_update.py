"""The exponential moving average of parameters."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lwd.errors import ConfigError, ShapeError
from lwd.ops.soft_update import soft_update


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moves_by_the_rate_and_in_place(dtype: torch.dtype) -> None:
    target = [nn.Parameter(torch.zeros(2, dtype=dtype)), nn.Parameter(torch.ones(1, 3, dtype=dtype))]
    source = [torch.ones(2, dtype=dtype), torch.full((1, 3), 3.0, dtype=dtype)]
    before = [parameter.data_ptr() for parameter in target]
    soft_update(target, iter(source), 0.25)
    assert_close(target[0].data, torch.full((2,), 0.25, dtype=dtype))
    assert_close(target[1].data, torch.full((1, 3), 1.5, dtype=dtype))
    assert [parameter.data_ptr() for parameter in target] == before
    assert all(parameter.grad_fn is None for parameter in target)


def test_n_updates_leave_a_geometric_rest() -> None:
    target, source = [torch.zeros(1, dtype=torch.float64)], [torch.ones(1, dtype=torch.float64)]
    for _ in range(100):
        soft_update(target, source, 0.005)
    assert_close(target[0], torch.tensor([1 - 0.995**100], dtype=torch.float64))


def test_rate_zero_keeps_and_rate_one_copies() -> None:
    target, source = [torch.rand(4)], [torch.rand(4)]
    kept = target[0].clone()
    soft_update(target, source, 0)
    assert torch.equal(target[0], kept)
    soft_update(target, source, 1)
    assert torch.equal(target[0], source[0])


def test_wrong_rates_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"polyak_rate is 1\.5"):
        soft_update([torch.zeros(1)], [torch.zeros(1)], 1.5)
    with pytest.raises(ShapeError, match="differ in number or shapes"):
        soft_update([torch.zeros(1)], [torch.zeros(2)], 0.5)
    with pytest.raises(ShapeError, match="differ in number or shapes"):
        soft_update([torch.zeros(1)], [], 0.5)
    soft_update([], [], 0.5)
