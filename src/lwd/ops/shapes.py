"""Shape checks at the entry of every operation: a wrong broadcast is a wrong equation."""

from collections.abc import Sequence

from torch import Tensor

from lwd.errors import ShapeError


def require_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """Raise ShapeError unless `tensor` has exactly the expected shape."""
    if tensor.shape != tuple(expected):
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(expected)}")


def require_same_shape(**tensors: Tensor) -> None:
    """Raise ShapeError unless all the named tensors have the same shape."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ShapeError(f"these shapes must be equal: {shapes}")


def require_atoms(atoms_K: Tensor) -> None:
    """Raise ShapeError unless `atoms_K` is a vector of two atoms or more."""
    if atoms_K.ndim != 1 or atoms_K.shape[0] < 2:
        raise ShapeError(f"atoms_K has shape {tuple(atoms_K.shape)}; expected (K,) with K >= 2")


def require_last_dimension(name: str, tensor: Tensor, size: int) -> None:
    """Raise ShapeError unless the last dimension of `tensor` has the given size."""
    if tensor.ndim == 0 or tensor.shape[-1] != size:
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; its last dimension must be {size}")
