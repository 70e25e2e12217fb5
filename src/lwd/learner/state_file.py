"""Nested state <-> safetensors and JSON. No pickle: a checkpoint from elsewhere cannot run code."""

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lwd.errors import CheckpointError

_SEPARATOR = "/"
_ESCAPES = (("~", "~0"), (_SEPARATOR, "~1"))
"""As in JSON pointers: the encoder of a camera `pixels.top` has a separator in its name."""
_ESCAPED, _PLAIN = "escaped scalars", "scalars"
"""Entries of the file's metadata. One to a file: safetensors writes several in no fixed order, and equal states have
equal bytes."""


def state_bytes(state: dict[str, Any]) -> bytes:
    """Serialise nested dictionaries of tensors, numbers, strings and None; their keys may be any text."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for path, leaf in _leaves(state, ()):
        key = _SEPARATOR.join(map(_escaped, path))
        if isinstance(leaf, Tensor):
            tensors[key] = leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            scalars[key] = leaf
    return save(tensors, metadata={_ESCAPED: json.dumps(scalars)})


def load_state_bytes(data: bytes) -> dict[str, Any]:
    """Restore what `state_bytes` wrote.

    Raises:
        CheckpointError: if the bytes are damaged.
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header["__metadata__"]
        # Files of earlier versions have their keys as they are.
        read = _unescaped if _ESCAPED in metadata else str
        scalars = json.loads(metadata[_ESCAPED if _ESCAPED in metadata else _PLAIN])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"the algorithm state is damaged ({error}); use an earlier checkpoint") from error
    state: dict[str, Any] = {}
    for key, leaf in {**scalars, **tensors}.items():
        *parents, name = map(read, key.split(_SEPARATOR))
        node = state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return state


def _leaves(node: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    # An optimiser that has not stepped yet has no moments: an empty dictionary is kept as it is.
    if not isinstance(node, dict) or not node:
        return [(path, node)]
    return [leaf for key, child in node.items() for leaf in _leaves(child, (*path, str(key)))]


def _escaped(key: str) -> str:
    for character, escape in _ESCAPES:
        key = key.replace(character, escape)
    return key


def _unescaped(key: str) -> str:
    for character, escape in reversed(_ESCAPES):
        key = key.replace(escape, character)
    return key
