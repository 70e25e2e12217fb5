"""How the report draws curves: at most 300 points each, with bands for intervals and spread."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from lwd.evaluation.fleet_curves import Curve
from lwd.evaluation.run_data import Doubles, Series

_MAX_POINTS = 300


def band(axes: Axes, curve: Curve, colour: str, label: str, *, dashed: bool = False) -> None:
    """Draw a rolling estimate over fleet hours with its interval."""
    count = curve.hours.size
    keep = np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).astype(int))
    hours, style = curve.hours[keep], (0, (4, 2)) if dashed else "-"
    axes.fill_between(hours, curve.low[keep], curve.high[keep], color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        hours,
        curve.mean[keep],
        color=colour,
        linestyle=style,
        marker="o" if count == 1 else None,
        label=label,
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("fleet time, robot hours")


def line(axes: Axes, series: Series, colour: str, label: str) -> None:
    """Draw a metric over updates; where points are averaged, over the 10-90 % band of the raw values."""
    count = series.value.size
    if count <= _MAX_POINTS:
        marker = "o" if count == 1 else None
        axes.plot(series.update, series.value, color=colour, label=label, marker=marker)
        return
    bins = np.array_split(np.arange(count), _MAX_POINTS)
    update = _binned(series.update, bins, np.mean)
    low = _binned(series.value, bins, lambda part: np.quantile(part, 0.1))
    high = _binned(series.value, bins, lambda part: np.quantile(part, 0.9))
    axes.fill_between(update, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(update, _binned(series.value, bins, np.mean), color=colour, label=label)


def _binned(
    values: Doubles,
    bins: list[np.ndarray[tuple[int], np.dtype[np.intp]]],
    statistic: Callable[[Doubles], np.floating],
) -> Doubles:
    return np.asarray([statistic(values[part]) for part in bins], dtype=np.float64)
