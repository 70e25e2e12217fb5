"""What may reach a robot: finite numbers of its shape within its limits, whoever chose them."""

from typing import Any

import numpy as np

from lwd.errors import ActionRejected
from lwd.types import Embodiment, FloatArray


def checked_action(action: Any, embodiment: Embodiment) -> FloatArray:
    """Return an action as (A,) float32 within the embodiment's limits, as float32; beyond them it is clipped.

    Raises:
        ActionRejected: if it is no array of numbers, has another shape, or is not finite.
    """
    return _checked(action, embodiment, shape=(embodiment.action_size,))


def checked_chunk(chunk_HA: Any, embodiment: Embodiment) -> FloatArray:
    """Return a chunk as (H, A) float32 within the embodiment's limits.

    Raises:
        ActionRejected: as `checked_action`, and if H is 0.
    """
    return _checked(chunk_HA, embodiment, shape=(None, embodiment.action_size))


def _checked(numbers: Any, embodiment: Embodiment, *, shape: tuple[int | None, ...]) -> FloatArray:
    what = "action" if len(shape) == 1 else "chunk"
    try:
        given = np.asarray(numbers)
    except Exception as error:  # ragged lists, and whatever an object's own conversion raises
        raise ActionRejected(f"the {what} is no array of numbers ({type(error).__name__}); the robot holds") from error
    if given.dtype.kind not in "iuf":
        raise ActionRejected(f"the {what} has dtype {given.dtype}; send real numbers; the robot holds")
    fits = given.ndim == len(shape) and all(
        size == found if size is not None else found > 0 for size, found in zip(shape, given.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("H >= 1" if size is None else str(size) for size in shape)
        raise ActionRejected(
            f"the {what} has shape {given.shape}; {embodiment.name} takes ({wanted}{',' * (len(shape) == 1)}); "
            "the robot holds"
        )
    # Not finite is a fault, never clipped: NaN passes a clip.
    if not np.isfinite(given).all():
        raise ActionRejected(f"the {what} is not finite; the robot holds")
    # In its own precision first: 1e300 is finite, and no float32. Then in float32, whose nearest number may lie beyond.
    low_A, high_A = np.array(embodiment.action_low), np.array(embodiment.action_high)
    inside = np.clip(given.astype(np.result_type(given.dtype, np.float64)), low_A, high_A)
    checked: FloatArray = np.clip(inside.astype(np.float32), low_A.astype(np.float32), high_A.astype(np.float32))
    return checked
