"""What a safetensors file says it holds, read and checked before a byte of its tensors is touched."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lwd.errors import CheckpointError

_MAX_HEADER_BYTES = 16 * 2**20
"""pi0.5's 1,600 tensors take a quarter of a MiB; the rest is room for instructions."""
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 8
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The header of a safetensors file whose parts fit together."""

    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


def read_header(data: bytes, name: str) -> TensorFile:
    """Read and check the header: every tensor's place, type and shape against the file's size, without gaps.

    Args:
        name: of the file, for the error.
    Raises:
        CheckpointError: if it is no intact safetensors file.
    """
    header, body_bytes = _parsed(data, name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(name, "its metadata is no table of texts")
    if len(header) > _MAX_TENSORS:
        raise _damaged(name, f"it has {len(header)} tensors, at most {_MAX_TENSORS} are read")
    places = sorted((_place(name, tensor, entry), tensor) for tensor, entry in header.items())
    end = 0
    for (begin, stop), tensor in places:
        if begin != end:
            raise _damaged(name, f"tensor {tensor!r} begins at byte {begin}, not where the one before ends ({end})")
        end = stop
    if end != body_bytes:
        raise _damaged(name, f"its tensors have {end} bytes, the file holds {body_bytes}")
    return TensorFile(metadata=metadata, shapes={tensor: tuple(entry["shape"]) for tensor, entry in header.items()})


def _parsed(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    """The header's table, and the bytes behind it."""
    if len(data) < 8:
        raise _damaged(name, f"it has {len(data)} bytes")
    size = int.from_bytes(data[:8], "little")
    if size > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise _damaged(name, f"its header has {size} bytes by its own words, the file {len(data)}")
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its header is no JSON: {str(error)[:200]}") from error
    if not isinstance(header, dict):
        raise _damaged(name, "its header is no table")
    return header, len(data) - 8 - size


def _place(name: str, tensor: str, entry: Any) -> tuple[int, int]:
    """Return where a tensor begins and ends, which agrees with its type and shape."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(name, f"tensor {tensor!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPE_BYTES if isinstance(dtype, str) else True:
        raise _damaged(name, f"tensor {tensor!r} has dtype {dtype!r}; LWD writes {', '.join(_DTYPE_BYTES)}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(name, f"tensor {tensor!r} has shape {str(shape)[:80]}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(name, f"tensor {tensor!r} has data_offsets {str(offsets)[:80]}")
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPE_BYTES[dtype]:
        raise _damaged(name, f"tensor {tensor!r} of shape {shape} and type {dtype} has {end - begin} bytes")
    return begin, end


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(type(size) is int and 0 <= size < 2**53 for size in found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def _damaged(name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{name} is not an intact safetensors file ({what}); copy it again")
