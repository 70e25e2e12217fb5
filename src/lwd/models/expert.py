"""The action expert: the part of the policy that predicts the flow's velocity, many times per state.

Shape suffixes: N flow steps, B batch, D = H * A flattened chunk, C features, W hidden width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwd.models.flow_policy import VJP


class ActionExpert(nn.Module):
    """A multi-layer perceptron over (context, noisy chunk, flow time).

    The first layer is a sum of three products, so that the context's share is computed once per state and the
    flow time's once per flow step, however many chunks are evaluated.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, *, context_size: int, chunk_size: int, width: int, depth: int, time_features: int = 16) -> None:
        super().__init__()
        self.from_context = nn.Linear(context_size, width)
        self.from_chunk = nn.Linear(chunk_size, width, bias=False)
        self.from_time = nn.Linear(2 * time_features, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.out = nn.Linear(width, chunk_size)
        # Sines and cosines in one pass: cos(x) = sin(x + pi / 2).
        frequencies = math.pi * torch.logspace(-1, 1.2, time_features, base=2.0)
        self.register_buffer("frequencies", frequencies.repeat(2), persistent=False)
        phases = torch.tensor([0.0, math.pi / 2]).repeat_interleave(time_features)
        self.register_buffer("phases", phases, persistent=False)

    def condition(self, features_BC: Tensor) -> Tensor:
        """Return the first layer's share of the backbone's features (B, W), computed once per state."""
        return self.from_context(features_BC)  # type: ignore[no-any-return]

    def field(self, condition_BW: Tensor, dtype: torch.dtype) -> "VelocityField":
        """Return the velocity at B states as a function of chunk and flow time, computed in `dtype`."""
        return VelocityField(self, condition_BW, dtype)


class VelocityField:
    """The expert at given states, for many evaluations with the weights of this moment.

    Activations and matrix products are of one precision throughout (autocast would go back and forth between
    layers); chunks, velocities and gradients outside are float32.
    """

    def __init__(self, expert: ActionExpert, condition_BW: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._condition_BW = condition_BW.to(dtype)
        self._frequencies, self._phases = expert.frequencies, expert.phases
        self._from_time = expert.from_time.weight.t().to(dtype)
        self._from_chunk = expert.from_chunk.weight.t().to(dtype)
        self._layers = [(layer.weight.to(dtype), layer.bias.to(dtype)) for layer in (*expert.hidden, expert.out)]

    def __call__(self, chunk_NBHA: Tensor, flow_time_NB: Tensor) -> Tensor:
        """Return velocities (..., B, H, A) of chunks (..., B, H, A) at flow times that broadcast to (..., B)."""
        x = self._first(chunk_NBHA, flow_time_NB)
        for weight, bias in self._layers:
            x = F.linear(F.silu(x), weight, bias)
        return x.float().view(chunk_NBHA.shape)

    @torch.no_grad()
    def linearize(self, chunk_NBHA: Tensor, flow_time_NB: Tensor) -> VJP:
        """Return `vjp(step, g_BHA) -> g_BHA`, the vector-Jacobian product with respect to the chunk.

        One batched forward pass serves all N steps: the lean adjoint's sequential part is only the products with
        the transposed weights. Equal to automatic differentiation (a test compares them).
        """
        inputs_NBW = [self._first(chunk_NBHA, flow_time_NB)]
        for weight, bias in self._layers[:-1]:
            inputs_NBW.append(F.linear(F.silu(inputs_NBW[-1]), weight, bias))
        # From the output back; unbound once, not in every product.
        steps = [(weight, x.unbind()) for (weight, _), x in zip(self._layers, inputs_NBW, strict=True)][::-1]

        @torch.no_grad()
        def vjp(step: int, gradient_BHA: Tensor) -> Tensor:
            g = gradient_BHA.flatten(-2).to(self._dtype)
            for weight, x_NBW in steps:
                g = torch.ops.aten.silu_backward(g @ weight, x_NBW[step])
            return (g @ self._from_chunk.t()).float().view(gradient_BHA.shape)

        return vjp

    def _first(self, chunk_NBHA: Tensor, flow_time_NB: Tensor) -> Tensor:
        if flow_time_NB.stride(-1) == 0:
            flow_time_NB = flow_time_NB[..., :1]  # one time for all states is embedded once
        waves = torch.addcmul(self._phases, flow_time_NB.unsqueeze(-1), self._frequencies).sin()
        shared = self._condition_BW + waves.to(self._dtype) @ self._from_time
        chunk = chunk_NBHA.flatten(-2).to(self._dtype)
        if chunk.ndim == 2:
            return torch.addmm(shared, chunk, self._from_chunk)
        return chunk @ self._from_chunk + shared
