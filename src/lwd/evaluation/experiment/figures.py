"""The experiment's figures, each from the records alone; None where there is nothing to draw."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from lwd.evaluation.experiment import scores
from lwd.evaluation.experiment.records import CellRecord, Points
from lwd.evaluation.experiment.scores import GROUPS, Results
from lwd.evaluation.experiment.tables import ROWS, row_name
from lwd.evaluation.svg import INK, MUTED, SERIES, Canvas, Drawing

_COLOURS: Mapping[str, str] = {
    "sft": MUTED,
    "lwd": SERIES[1],
    "lwd_paper": SERIES[5],
    "recap": SERIES[4],
    "hg_dagger": SERIES[3],
    "qam": SERIES[2],
    "best_of_n": INK,
    "fql": SERIES[0],
}
_GRID = 40


def success(results: Results) -> Drawing | None:
    """Mean success of every row of table 1 with its interval."""
    rows = [(method, stage, runs) for method, stage in ROWS if (runs := results.runs(method, stage))]
    if not rows:
        return None
    with Canvas("experiment-success", height=1.1 + 0.24 * len(rows)) as canvas:
        for axes, group in zip(canvas.axes(3, sharey=True), GROUPS, strict=True):
            for place, (method, _, runs) in enumerate(rows):
                if (found := scores.mean(runs, group)) is not None:
                    axes.hlines(place, found.low, found.high, color=_COLOURS[method], linewidth=2.4, alpha=0.55)
                    axes.plot([found.mean], [place], "o", color=_COLOURS[method], markersize=5.5)
            axes.set_yticks(range(len(rows)), [row_name(results, method, stage) for method, stage, _ in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            _percent(axes, "x")
            axes.set_xlim(-0.01, 1.01)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.set_title({"all": "All tasks", "short": "Short tasks", "long": "Long tasks"}[group])
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption="Mean success over tasks; bars are 95 % intervals, bootstrapped over training seeds, then episodes.",
        description="Mean success of every method with 95 % intervals.",
    )


def learning_curves(results: Results) -> Drawing | None:
    """Success of the deployed policy without help, and interventions, over the fleet's robot hours."""
    methods = [(method, list(_fleets(results, method))) for method, stage in ROWS if stage == "online"]
    methods = [(method, records) for method, records in methods if records]
    if not methods:
        return None
    with Canvas("experiment-learning", height=3.6) as canvas:
        left, right = canvas.axes(2)
        for method, records in methods:
            colour, words = _COLOURS[method], results.setting.methods[method]
            _over_hours(left, [fleet[0] for fleet in records], colour, words)
            _over_hours(right, [fleet[1] for fleet in records], colour, words)
        _percent(left, "y")
        left.set_ylim(0, 1)
        left.set_title("Success without help")
        right.set_title("Interventions per robot hour")
        right.set_ylim(bottom=0)
        canvas.figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(methods))
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            "The fleet while it learned: rolling means over episodes in the order of commits, averaged over training "
            "seeds; the band spans the seeds. The mix of tasks moves these lines, too: compare methods by the tables."
        ),
        description="Fleet success and interventions over robot hours.",
    )


def _fleets(results: Results, method: str) -> Iterator[tuple[Points, Points]]:
    for record in results.runs(method, "online").values():
        if record.training is not None and record.training.fleet is not None:
            fleet = record.training.fleet
            yield fleet.success, fleet.interventions_per_hour


def _over_hours(axes: Axes, curves: Sequence[Points], colour: str, label: str) -> None:
    _band(axes, [curve for curve in curves if curve.x], colour, label)
    axes.set_xlim(left=0)
    axes.set_xlabel("fleet time, robot hours")


def _band(axes: Axes, curves: Sequence[Points], colour: str, label: str) -> None:
    """Draw the mean of several seeds' curves where all of them have values, over the span between them."""
    if not curves:
        return
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    grid = np.linspace(first, max(first, last), _GRID)
    table = np.asarray([np.interp(grid, curve.x, curve.y) for curve in curves])
    if len(curves) > 1:
        axes.fill_between(grid, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.14, linewidth=0)
    axes.plot(grid, table.mean(axis=0), color=colour, label=label, marker="o" if first >= last else None)


def value_training(results: Results) -> Drawing | None:
    """Quantile level, entropy and value over training (the paper's Fig. 8, and the value's own course)."""
    names = {
        "divl/quantile_level": ("quantile level", SERIES[0]),
        "divl/normalized_entropy": ("normalised entropy", SERIES[1]),
        "divl/target_mean": ("mean target", SERIES[2]),
        "critic/q_mean": ("mean Q", SERIES[3]),
    }
    stages = {stage: list(results.runs("lwd", stage).values()) for stage in ("offline", "online")}
    drawn = {stage: records for stage, records in stages.items() if any(_curves(records, name) for name in names)}
    if not drawn:
        return None
    with Canvas("experiment-value", height=3.0) as canvas:
        panels = canvas.axes(len(drawn), sharey=True)
        for axes, (stage, records) in zip(panels, drawn.items(), strict=True):
            for name, (label, colour) in names.items():
                _band(axes, _curves(records, name), colour, label)
            axes.set_title(f"LWD {stage}")
            axes.set_ylim(0, 1)
            axes.set_xlabel("learner updates")
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        canvas.figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            "The quantile level that the bootstrap is taken at, clip(base - alpha x entropy), the normalised entropy "
            "of the value distribution, and the mean of targets and Q, as batch means averaged over training seeds; "
            "bands span the seeds (after the paper's Fig. 8)."
        ),
        description="Quantile level, entropy and mean values over learner updates, offline and online.",
    )


def _curves(records: Sequence[CellRecord], name: str) -> list[Points]:
    return [
        record.training.curves[name]
        for record in records
        if record.training is not None and name in record.training.curves
    ]


def fleet_size(results: Results) -> Drawing | None:
    """Success of LWD online against the number of robots."""
    setting = results.setting
    lines = {
        "equal wall clock": (SERIES[1], setting.steps_at_equal_wall_clock),
        "equal robot hours": (SERIES[0], lambda robots: setting.env_steps),
    }
    found = {
        name: [
            (robots, mean)
            for robots in setting.fleet_sizes
            if (mean := scores.mean(results.runs("lwd", "online", robots=robots, env_steps=steps(robots)))) is not None
        ]
        for name, (_, steps) in lines.items()
    }
    if max(len(points) for points in found.values()) < 2:
        return None
    with Canvas("experiment-fleet-size", height=3.2) as canvas:
        (axes,) = canvas.axes()
        for shift, (name, points) in zip((0.985, 1.015), found.items(), strict=True):
            if not points:
                continue
            colour = lines[name][0]
            x = [robots * shift for robots, _ in points]
            axes.vlines(x, [mean.low for _, mean in points], [mean.high for _, mean in points], color=colour, alpha=0.5)
            axes.plot(x, [mean.mean for _, mean in points], "o-", color=colour, label=name)
        sft = scores.mean(results.runs("sft", "sft"))
        if sft is not None:
            axes.axhline(sft.mean, color=MUTED, linestyle=(0, (4, 2)), linewidth=1.2, label="SFT")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(list(setting.fleet_sizes)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(robots) for robots in setting.fleet_sizes])
        axes.set_xlabel("robots")
        axes.set_ylabel("success")
        _percent(axes, "y")
        axes.legend(loc="upper left")
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            "Success of LWD online against the number of robots. Equal wall clock: each robot makes as many steps as "
            "in the whole fleet; equal robot hours: the fleet makes as many steps as the whole one. Bars: 95 % "
            "intervals."
        ),
        description="Success against fleet size.",
    )


def _percent(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1.0))
