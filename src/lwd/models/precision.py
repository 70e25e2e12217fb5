"""Mixed precision: matrix products in bfloat16, parameters, sums and everything outside the networks in float32."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def compute_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs its matrix products with the given precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of activations where a network does without autocast."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
