"""What of a Gymnasium observation is state and what is a picture, and whether an observation keeps to its space."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import ConfigError, RobotFault
from lwd.robots.foreign import as_array
from lwd.types import ByteArray, FloatArray

_COLOURS = (1, 3)
_GREY_SIDE = 16
"""Two axes of bytes, both at least so long, are a picture without colours."""
_FAR = 10.0
"""How many times its width a number may be outside of its space: many environments leave theirs by a little."""
_RATIO = 0.02
"""How far the proportions of a picture may be from its space's: sides are whole pixels."""
_SMALL = 1e-3
"""By how much of its range a float picture may leave it: rounding."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Numbers of the state, by the keys that lead there."""

    keys: tuple[str, ...]
    name: str
    shape: tuple[int, ...]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def read(self, raw: Any) -> FloatArray:
        """Return them (size,) float32.

        Raises:
            RobotFault: if they are no finite numbers of its shape, or nowhere near its space.
        """
        array = as_array(_at(raw, self.keys), f"observation {self.name}")
        # (1,) and () are the same number to everybody.
        if array.shape != self.shape and np.squeeze(array).shape != tuple(side for side in self.shape if side != 1):
            raise RobotFault(f"observation {self.name} has shape {array.shape}; its space says {self.shape}")
        flat = np.ravel(array).astype(np.float64)
        with np.errstate(over="ignore"):
            numbers = flat.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise RobotFault(f"observation {self.name} is not finite: the simulation is lost")
        with np.errstate(invalid="ignore", over="ignore"):
            outside = np.maximum(self.low - flat, flat - self.high)
            width = self.high - self.low
        # Where low is high nothing is stated: Meta-World hides its goals so, and shows them nevertheless.
        far = outside > np.where(np.isfinite(width) & (width > 0), _FAR * width, np.inf)
        if far.any():
            worst = int(np.flatnonzero(far)[0])
            raise RobotFault(
                f"observation {self.name} has {flat[worst]:g} at {worst}, far outside of its space "
                f"({self.low[worst]:g} to {self.high[worst]:g}): correct the space or the units"
            )
        return numbers

    def leaves(self, numbers: FloatArray) -> bool:
        """Whether numbers are outside of the space, as those of many environments are by a little."""
        return bool(((numbers < self.low.astype(np.float32)) | (numbers > self.high.astype(np.float32))).any())


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A camera, by the keys that lead there."""

    keys: tuple[str, ...]
    name: str
    size: tuple[int, int]
    """(height, width)."""
    channel_axis: int | None
    """Of the colours, in an observation; None: two axes, without colours."""
    is_float: bool
    low: float
    high: float

    def read(self, raw: Any) -> ByteArray:
        """Return it as (height, width, 3) uint8; its size may differ from its space's, its proportions not.

        Raises:
            RobotFault: if it is no picture, or of another dtype or range than its space says.
        """
        what = f"picture {self.name}"
        array = as_array(_at(raw, self.keys), what)
        if self.channel_axis is None:
            array = array[..., None]
        elif self.channel_axis == 0 and array.ndim == 3:
            array = np.moveaxis(array, 0, -1)
        if array.ndim != 3 or array.shape[-1] not in _COLOURS or 0 in array.shape:
            raise RobotFault(f"{what} has shape {array.shape}; expected (height, width, 3)")
        if abs(array.shape[0] * self.size[1] / (array.shape[1] * self.size[0]) - 1) > _RATIO:
            raise RobotFault(
                f"{what} has shape {array.shape}; its space says {self.size[0]} x {self.size[1]} (height x width), and "
                "it would be squeezed"
            )
        if (array.dtype.kind == "f") != self.is_float:
            raise RobotFault(f"{what} is {array.dtype}; its space says {'float' if self.is_float else 'whole numbers'}")
        array = self._bytes(array)
        return array if array.shape[-1] == 3 else np.repeat(array, 3, axis=-1)

    def _bytes(self, array: npt.NDArray[Any]) -> ByteArray:
        if array.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return array
        shares = (array.astype(np.float64) - self.low) / (self.high - self.low)
        if not np.isfinite(shares).all() or shares.min() < -_SMALL or shares.max() > 1 + _SMALL:
            raise RobotFault(
                f"picture {self.name} has values from {array.min():g} to {array.max():g}; its space says "
                f"{self.low:g} to {self.high:g}"
            )
        scaled: ByteArray = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
        return scaled


@dataclass(frozen=True, kw_only=True)
class ObservationLayout:
    """All vectors and pictures of an observation space, named after their keys."""

    vectors: tuple[Vector, ...]
    pictures: tuple[Picture, ...]

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> "ObservationLayout":
        """Sort the parts of a space.

        Raises:
            ConfigError: if a part is neither numbers nor a picture, or there are no numbers.
        """
        vectors: list[Vector] = []
        pictures: list[Picture] = []
        for keys, part in _parts(space, ()):
            kind = _kind(keys, part)
            if isinstance(kind, Vector):
                vectors.append(kind)
            else:
                pictures.append(kind)
        names = [*(vector.name for vector in vectors), *(picture.name for picture in pictures)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two observations are called {twice[0]}: rename a key of the environment's Dict")
        for picture in pictures:
            if re.fullmatch(NAME_PATTERN, picture.name) is None:
                raise ConfigError(
                    f"camera {picture.name!r} cannot be recorded: names match {NAME_PATTERN}; rename its key"
                )
        if not vectors:
            raise ConfigError(
                "the environment observes no vector of numbers; choose an observation with the robot's state, such as "
                "obs_type=pixels_agent_pos"
            )
        return cls(vectors=tuple(vectors), pictures=tuple(pictures))

    def read(self, raw: Any) -> tuple[FloatArray, dict[str, ByteArray]]:
        """Return state (S,) float32 and pictures by name, (height, width, 3) uint8.

        Raises:
            RobotFault: if a part is missing, or not what the space says.
        """
        state = np.concatenate([vector.read(raw) for vector in self.vectors])
        return state, {picture.name: picture.read(raw) for picture in self.pictures}

    def leaving(self, state: FloatArray) -> tuple[str, ...]:
        """Return the vectors of a state (S,) that are outside of their spaces."""
        found, begin = [], 0
        for vector in self.vectors:
            if vector.leaves(state[begin : begin + vector.size]):
                found.append(vector.name)
            begin += vector.size
        return tuple(found)


def _parts(space: spaces.Space[Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], spaces.Box]]:
    if isinstance(space, spaces.Dict):
        for name, inner in space.spaces.items():
            yield from _parts(inner, (*keys, name))
    elif isinstance(space, spaces.Box):
        yield keys, space
    else:
        raise ConfigError(f"observation {'.'.join(keys)} is a {type(space).__name__}; only Box and Dict are known")


def _kind(keys: tuple[str, ...], part: spaces.Box) -> Vector | Picture:
    """Tell numbers from pictures: three axes are a picture or refused, never so many numbers of a state."""
    shape, is_bytes = part.shape, part.dtype == np.uint8
    where = ".".join(keys) or "the observation"
    if len(shape) == 3 or (len(shape) == 2 and is_bytes and min(shape) >= _GREY_SIDE):
        axis = None if len(shape) == 2 else next((axis for axis in (2, 0) if shape[axis] in _COLOURS), -1)
        if axis == -1:
            raise ConfigError(
                f"observation {where} has shape {shape}: a picture has 3 colours, or 1, in its last axis or its first; "
                "change it by a wrapper, or flatten it if those are numbers of the state"
            )
        sides = shape if axis is None else tuple(side for number, side in enumerate(shape) if number != axis)
        low, high = _range(where, part)
        return Picture(
            keys=keys, name=_name(keys, "image"), size=(sides[0], sides[1]), channel_axis=axis,
            is_float=part.dtype is not None and part.dtype.kind == "f", low=low, high=high,
        )  # fmt: skip
    if len(shape) > 3:
        raise ConfigError(
            f"observation {where} has shape {shape}: pictures come one at a time; leave the stacking of frames out"
        )
    return Vector(
        keys=keys, name=_name(keys, "state"), shape=shape,
        low=part.low.astype(np.float64).ravel(), high=part.high.astype(np.float64).ravel(),
    )  # fmt: skip


def _range(where: str, part: spaces.Box) -> tuple[float, float]:
    """Return which numbers of a picture's space are black and full colour."""
    low, high = float(part.low.min()), float(part.high.max())
    if part.dtype == np.uint8:
        return 0.0, 255.0
    if (low, high) not in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        raise ConfigError(
            f"observation {where} has shape {part.shape} and {part.dtype} from {low:g} to {high:g}: a picture goes "
            "from 0 to 1, -1 to 1 or 0 to 255; change it by a wrapper, or flatten it if those are numbers of the state"
        )
    return low, high


def _at(raw: Any, keys: tuple[str, ...]) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(raw, Mapping) or key not in raw:
            has = ", ".join(map(str, raw)) if isinstance(raw, Mapping) else f"a {type(raw).__name__}"
            raise RobotFault(f"the observation has no {'.'.join(keys[: depth + 1])}, which its space promises ({has})")
        raw = raw[key]
    return raw


def _name(keys: tuple[str, ...], alone: str) -> str:
    return ".".join(keys) or alone
