"""Which actions a robot is allowed, from the actions that were recorded of it.

A limit is a promise to the robot and the scale of a network's actions, so one glitch must not become one. Extremes are
taken without the few values that lie far from all others, and widened: a second recording goes a little further.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lwd.data.plain_file import read_plain_file
from lwd.errors import ConfigError
from lwd.types import FloatArray

MARGIN = 0.1
"""Part of a column's range that its limits are wider on either side."""
STILL = 0.01
"""Part of its own value by which a column may change that hardly ever did."""
_STILL_AT_ZERO = 1e-3
"""The same for a value of 0, as part of the widest other column; in units where there is none."""
_RARE = 1e-3
"""Part of the frames, at either end of a column, that may be wrong (three frames of a short data set)."""
_RARE_FRAMES = 3
_FAR = 2.0
"""In ranges of all other values: what is rare and further away than this is wrong."""
_HARD = (0.0, 1.0, 100.0)
"""Where columns end in units of their own (LeRobot's percent, a Gymnasium Box): reached often and never passed."""
_OFTEN = 3
_MAX_BYTES = 1 << 20

Limits = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Outlying:
    """A column some values of which are not within what its limits are made from."""

    column: int
    values: tuple[float, ...]
    """Not within the limits; ten at most."""
    frames: int


def limits_of(actions_NA: FloatArray) -> tuple[tuple[Limits, ...], tuple[Outlying, ...]]:
    """Return (low, high) of each column, low below high, and the columns with values outside.

    The k lowest and k highest values of a column (k = a thousandth of the frames; up to three of a short recording) are
    left out of its range where they are further from the other values than twice the range of those. The range is
    widened by a tenth on either side, at least by a hundredth of the value itself; but not beyond 0, +-1 or +-100 where
    the column comes there again and again and never passes it.
    """
    columns = [column[np.isfinite(column)].astype(np.float64) for column in actions_NA.T]
    bodies = [_body(np.sort(column)) for column in columns]
    widest = max((high - low for low, high in bodies), default=0.0)
    limits, outlying = [], []
    for number, (values, body) in enumerate(zip(columns, bodies, strict=True)):
        if not len(values):
            # Nothing of it comes in; the file must be valid all the same.
            limits.append((-1.0, 1.0))
            continue
        reach = _FAR * ((body[1] - body[0]) or widest or math.inf)
        within = values[(values >= body[0] - reach) & (values <= body[1] + reach)]
        limits.append(_widened(within, widest))
        wrong = values[(values < limits[-1][0]) | (values > limits[-1][1])]
        if len(wrong):
            furthest = sorted(set(wrong.tolist()), key=lambda value: -abs(value))[:10]
            outlying.append(Outlying(column=number, values=tuple(furthest), frames=len(wrong)))
    return tuple(limits), tuple(outlying)


def _body(sorted_N: FloatArray) -> Limits:
    """Return the extremes without the rare values."""
    count = len(sorted_N)
    if not count:
        return 0.0, 0.0
    rare = max(math.ceil(_RARE * count), _RARE_FRAMES) if count >= 10 * _RARE_FRAMES else count // 10
    return float(sorted_N[rare]), float(sorted_N[count - 1 - rare])


def _widened(values: FloatArray, widest: float) -> Limits:
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    margin = max(MARGIN * (high - low), STILL * size if size else _STILL_AT_ZERO * (widest or 1.0))

    def is_hard(end: float) -> bool:
        return low < high and abs(end) in _HARD and int((values == end).sum()) >= _OFTEN

    return low if is_hard(low) else low - margin, high if is_hard(high) else high + margin


def read_limits(path: Path, names: Sequence[str], size: int) -> Mapping[int, Limits]:
    """Read limits from JSON: {"shoulder.pos": [-100, 100], ...}, by the action's names or its columns' numbers.

    Args:
        names: of the action's entries; empty: they have none, and their numbers are used.
    Returns:
        limits by column; those that the file does not name are not there.
    Raises:
        ConfigError: if it cannot be read, names no column, or low is not below high.
    """
    data = read_plain_file(path, max_bytes=_MAX_BYTES)
    if data is None:
        raise ConfigError(f"limits {path} cannot be read (there is no such file): check the path")
    try:
        given = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"limits {path} are no JSON ({error}): correct the file") from error
    places = {name: place for place, name in enumerate(names)} | {str(place): place for place in range(size)}
    found = {}
    for name, pair in given.items() if isinstance(given, dict) else [("", given)]:
        if name not in places:
            raise ConfigError(f"limits {path}: {name!r} is no column of the action; it has {', '.join(places)}")
        numbers = pair if isinstance(pair, list) else []
        if len(numbers) != 2 or not all(_is_number(number) for number in numbers) or not numbers[0] < numbers[1]:
            raise ConfigError(f"limits {path}: {name} is {pair!r}; give [low, high], low below high")
        found[places[name]] = (float(numbers[0]), float(numbers[1]))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
