"""What tells recordings apart: their content, whatever their place in a dataset and whatever that is called."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lwd.types import FloatArray

_CONTENT = re.compile(r"-([0-9a-f]{16})-[0-9a-f]{8}$")
_NUMBERED = re.compile(r"-[0-9]{6}$")


def numbers_digest(states_TS: FloatArray, actions_TA: FloatArray, instruction: str) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over an episode's numbers and its task string.

    Hashed are the instruction, and shape and float32 values of states (T + 1, S) and actions (T, A), as they are
    stored. How the episode ended and who acted are left out: an import compares those.
    """
    digest = hashlib.sha256(instruction.encode(errors="surrogatepass"))
    for values in (states_TS, actions_TA):
        array = np.ascontiguousarray(values, dtype="<f4")
        digest.update(f"\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def pictures_digest(pictures: Mapping[str, Any]) -> str:
    """Return 8 hexadecimal digits of the SHA-256 over what is known of an episode's pictures without decoding them.

    Args:
        pictures: by feature, in their order: the encoded pictures where the rows hold them, else the statistics that
            LeRobot took when it was recorded. The bytes of a video are not hashed: LeRobot's tools encode it anew
            whenever an episode before it is deleted.
    """
    digest = hashlib.sha256()
    for name, content in sorted(pictures.items()):
        digest.update(f"\0{name}\0".encode())
        for piece in content:
            if isinstance(piece, bytes):
                digest.update(hashlib.sha256(piece).digest())
            else:
                digest.update(f"{piece:.6g} ".encode())
    return digest.hexdigest()[:8]


def content_id(name: str, numbers: str, pictures: str) -> str:
    """Return the id of a recorded episode."""
    return f"{name}-{numbers}-{pictures}"


def numbers_of_id(episode_id: str) -> str | None:
    """Return the digest of the numbers that an id holds; None: it is no id that `content_id` made."""
    found = _CONTENT.search(episode_id)
    return None if found is None else found[1]


def is_numbered(episode_id: str) -> bool:
    """Return whether an id is of the kind that imports gave before ids followed from content: NAME-000003."""
    return _NUMBERED.search(episode_id) is not None


def robot_name(name: str) -> str:
    """Return a robot's id for the name of a dataset; one that cannot be written out ends in a piece of its hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64]
    if plain and name.isascii():
        return plain
    return f"{plain or 'dataset'}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
