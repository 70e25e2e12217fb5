"""The action expert: the part of the policy that predicts the flow's velocity, many times per state.

Shape suffixes: N flow steps, B batch, D = H * A flattened chunk, C features, W hidden width.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VJP = Callable[[int, Tensor], Tensor]


class ActionExpert(nn.Module):
    """A multi-layer perceptron over (context, noisy chunk, flow time).

    The first layer is a sum of three products, so that the context's share is computed once per state and the
    flow time's once per flow step, however many chunks are evaluated.
    """

    frequencies: Tensor

    def __init__(self, *, context_size: int, chunk_size: int, width: int, depth: int, time_features: int = 16) -> None:
        super().__init__()
        self.from_context = nn.Linear(context_size, width)
        self.from_chunk = nn.Linear(chunk_size, width, bias=False)
        self.from_time = nn.Linear(2 * time_features, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, chunk_size)
        frequencies = math.pi * torch.logspace(-1, 1.2, time_features, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def condition(self, features_BC: Tensor) -> Tensor:
        """Return the first layer's share of the backbone's features (B, W), computed once per state."""
        return self.from_context(features_BC)  # type: ignore[no-any-return]

    def forward(self, condition_BW: Tensor, chunk_NBD: Tensor, flow_time_NB: Tensor) -> Tensor:
        """Return velocities (..., B, D) for chunks (..., B, D) at flow times that broadcast to (..., B)."""
        x = F.silu(self._first(condition_BW, chunk_NBD, flow_time_NB))
        for layer in self.hidden:
            x = F.silu(layer(x))
        return self.out(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def linearize(self, condition_BW: Tensor, chunk_NBD: Tensor, flow_time_NB: Tensor) -> VJP:
        """Return `vjp(step, g_BD) -> g_BD`, the vector-Jacobian product with respect to the chunk.

        One batched forward pass serves all N steps: the lean adjoint's sequential part is only the products with
        the transposed weights. Equal to automatic differentiation (a test compares them).
        """
        slopes = []
        x = self._first(condition_BW, chunk_NBD, flow_time_NB)
        for layer in self.hidden:
            x, slope = _silu_and_slope(x)
            slopes.append(slope)
            x = layer(x)
        slopes.append(_silu_and_slope(x)[1])

        @torch.no_grad()
        def vjp(step: int, gradient_BD: Tensor) -> Tensor:
            g = (gradient_BD @ self.out.weight).mul_(slopes[-1][step])
            for layer, slope in zip(reversed(self.hidden), reversed(slopes[:-1]), strict=True):
                g = (g @ layer.weight).mul_(slope[step])  # type: ignore[operator]
            return g @ self.from_chunk.weight

        return vjp

    def _first(self, condition_BW: Tensor, chunk_NBD: Tensor, flow_time_NB: Tensor) -> Tensor:
        phase = flow_time_NB.unsqueeze(-1) * self.frequencies
        from_time = self.from_time(torch.cat([phase.sin(), phase.cos()], dim=-1))
        return self.from_chunk(chunk_NBD) + (condition_BW + from_time)  # type: ignore[no-any-return]


def _silu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = x.sigmoid()
    value = x.mul_(gate)
    # d/dx x s(x) = s + x s (1 - s); the input's memory is reused, it is not needed again.
    slope = torch.addcmul(gate, value, 1 - gate)
    return value, slope
