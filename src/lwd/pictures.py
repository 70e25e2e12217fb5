"""Pictures at the size that a policy sees: one function for what is recorded, imported and acted upon."""

from typing import Any

import numpy as np
from PIL import Image

from lwd.errors import ShapeError
from lwd.types import ByteArray


def fitted(picture: Any, size: tuple[int, int]) -> ByteArray:
    """Return a picture (height, width, 3) uint8 at another size; each of its pixels is the mean of those it stands for.

    The whole picture is kept, so its sides may change their ratio.

    Args:
        size: (height, width).
    Raises:
        ShapeError: if it is no such picture.
    """
    found = np.asarray(picture)
    if found.ndim != 3 or found.shape[-1] != 3 or 0 in found.shape or found.dtype != np.uint8:
        raise ShapeError(f"a picture has shape {found.shape} of {found.dtype}; expected (height, width, 3) uint8")
    if found.shape[:2] == tuple(size):
        return found
    return np.asarray(Image.fromarray(found).resize((size[1], size[0]), Image.Resampling.BOX))
