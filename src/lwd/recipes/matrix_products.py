"""Which matrix products a computation consists of, and how fast this machine does just those.

The floor of a computation is the time of its matrix products alone: same shapes, layouts and precision, operands in
the cache, nothing in between. Softmaxes, activations, casts, optimiser and dispatch come on top of it.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}
"""Operator -> position of the first factor among its arguments."""


@dataclass(frozen=True)
class MatrixProduct:
    """One matrix product (..., M, K) @ (..., K, N) with the layout of its factors."""

    left_shape: tuple[int, ...]
    left_stride: tuple[int, ...]
    right_shape: tuple[int, ...]
    right_stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        """2 M N K: a multiplication and an addition for each term."""
        *batch, rows, inner = self.left_shape
        return 2 * rows * inner * self.right_shape[-1] * (batch[0] if batch else 1)

    def best_time_s(self, repeats: int) -> float:
        """Time the product alone; the fastest of `repeats` runs."""
        left = _filled(self.left_shape, self.left_stride, self.dtype)
        right = _filled(self.right_shape, self.right_stride, self.dtype)
        return best_time_s(lambda: torch.matmul(left, right), repeats)


Products = Counter[MatrixProduct]
"""Product -> how often it occurs."""


def matrix_products(computation: Callable[[], object]) -> Products:
    """Run a computation once, its backward passes included, and count its matrix products.

    Convolutions are not counted.
    """
    recorder = _Recorder()
    with recorder:
        computation()
    return recorder.products


def time_in_place_s(computation: Callable[[], object]) -> float:
    """Run a computation once and return the time that its matrix products took where they stand.

    Their operands come from wherever the operation before left them, so this is more than the floor; what it leaves
    of the whole time is all that better element-wise code could ever save.
    """
    stopwatch = _Stopwatch()
    with stopwatch:
        computation()
    return stopwatch.elapsed_s


def total_flops(products: Products) -> int:
    return sum(count * product.flops for product, count in products.items())


class Floor:
    """The time of a set of matrix products; `measure` may be called again and keeps each product's best."""

    def __init__(self, products: Products) -> None:
        self.products = products
        self._best_s = dict.fromkeys(products, float("inf"))

    def measure(self, repeats: int = 3) -> None:
        """Time every product a few more times."""
        with torch.no_grad():
            for product in self.products:
                self._best_s[product] = min(self._best_s[product], product.best_time_s(repeats))

    @property
    def time_s(self) -> float:
        """All products one after the other."""
        return sum(count * self._best_s[product] for product, count in self.products.items())

    @property
    def flops_per_s(self) -> float:
        """The rate over all products, each weighted with its share."""
        return total_flops(self.products) / self.time_s


def best_time_s(function: Callable[[], object], repeats: int) -> float:
    """Return the shortest of `repeats` runs: what other processes do can only lengthen one."""
    best_s = float("inf")
    for _ in range(repeats):
        started_s = time.perf_counter()
        function()
        best_s = min(best_s, time.perf_counter() - started_s)
    return best_s


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Products = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (first := _PRODUCTS.get(func)) is not None:
            left, right = args[first : first + 2]
            self.products[
                MatrixProduct(tuple(left.shape), left.stride(), tuple(right.shape), right.stride(), left.dtype)
            ] += 1
        return func(*args, **(kwargs or {}))


class _Stopwatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elapsed_s = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started_s = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self.elapsed_s += time.perf_counter() - started_s
        return result


def _filled(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random numbers in the given layout (an expanded tensor has strides of 0)."""
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(extent).to(dtype).as_strided(shape, stride)
