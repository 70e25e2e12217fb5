"""The figures that say whether a run worked: success per task, the learning curve, human help.

Every function takes the run and returns a `Drawing`, or None where the run has nothing to draw. Captions
are for robot learning engineers: what is drawn, its units, and how to read it.
"""

from collections.abc import Mapping

from matplotlib.ticker import PercentFormatter

from lwd.evaluation import fleet_curves
from lwd.evaluation.results import EvaluationResult
from lwd.evaluation.run_data import METHODS, RunData
from lwd.evaluation.strokes import band, line
from lwd.evaluation.svg import INK, MUTED, SERIES, Canvas, Drawing

METHOD_COLOURS: Mapping[str, str] = {
    "sft": MUTED,
    "filtered_bc": SERIES[2],
    "hg_dagger": SERIES[3],
    "recap": SERIES[4],
    "lwd_offline": SERIES[0],
    "lwd_online": SERIES[1],
}
_GROUPS = ("Mean", "Short", "Long")


def success_by_task(run: RunData) -> Drawing | None:
    """Success per task and mean, all methods, with 95 % intervals."""
    results = run.evaluations
    if not results:
        return None
    rows = [*_GROUPS, *task_order(results)]
    spread = 0.62 / len(results)
    with Canvas("success", height=1.0 + len(rows) * (0.2 + 0.08 * len(results))) as canvas:
        (axes,) = canvas.axes()
        for place, (method, result) in enumerate(results.items()):
            colour = METHOD_COLOURS.get(method, SERIES[5])
            offset = (place - (len(results) - 1) / 2) * spread
            marks = [(row, mark) for row, name in enumerate(rows) if (mark := rate(result, name)) is not None]
            heights = [row + offset for row, _ in marks]
            lows, highs = [mark[1] for _, mark in marks], [mark[2] for _, mark in marks]
            axes.hlines(heights, lows, highs, color=colour, linewidth=2.4, alpha=0.55)
            means = [mark[0] for _, mark in marks]
            axes.plot(means, heights, "o", color=colour, markersize=5.5, label=METHODS.get(method, method))
        axes.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
        for label in axes.get_yticklabels()[: len(_GROUPS)]:
            label.set_fontweight("bold")
            label.set_color(INK)
        axes.axhline(len(_GROUPS) - 0.5, color=MUTED, linewidth=0.8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(results))
        svg = canvas.svg()
    first = next(iter(results.values()))
    wording = "held-out" if first.heldout_instructions else "training"
    return Drawing(
        svg=svg,
        caption=(
            f"Success on {len(first.episodes)} evaluation episodes per method: the same starts for "
            f"every method, no human help, {wording} instructions, world “{first.world}”. Bars are 95 %"
            " intervals: Wilson for a task, bootstrap over episodes for the means. They cover "
            "evaluation noise, not the spread between training seeds."
        ),
        description="Success rate per task and method with 95 % intervals.",
    )


def task_order(results: Mapping[str, EvaluationResult]) -> list[str]:
    """Every evaluated task, short ones first."""
    horizons = {name: task.long_horizon for result in results.values() for name, task in result.summary.tasks.items()}
    return sorted(horizons, key=lambda name: (horizons[name], name))


def rate(result: EvaluationResult, row: str) -> tuple[float, float, float] | None:
    """Success and its interval for a task or for "Mean", "Short", "Long"; None where it was not evaluated."""
    summary = result.summary
    if row == "Mean":
        return (summary.mean, *summary.ci95)
    if row in _GROUPS:
        group = summary.short if row == "Short" else summary.long
        return None if group is None else (group.mean, *group.ci95)
    task = summary.tasks.get(row)
    return None if task is None else (task.rate, *task.ci95)


def learning_curve(run: RunData) -> Drawing | None:
    """Rolling success of the deployed fleet over fleet hours, with and without human help."""
    fleet = run.fleet
    if not fleet_curves.known(fleet):
        return None
    alone = fleet_curves.success_curve(fleet, without_help=True)
    with Canvas("learning", height=2.9) as canvas:
        (axes,) = canvas.axes()
        if any(episode.human_steps for episode in fleet):
            band(axes, fleet_curves.success_curve(fleet), MUTED, "with human help", dashed=True)
        band(axes, alone, SERIES[1], "policy alone")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("success")
        axes.legend(loc="lower right", ncols=2)
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            f"Success of the deployed robots, rolling over {alone.window} episodes, with 95 % Wilson "
            "intervals. “Policy alone” counts an episode as a success only if no human touched it. The"
            " mix of tasks in the window moves these lines too: compare methods on the evaluation "
            "above."
        ),
        description="Rolling success rate of the fleet over robot hours.",
    )


def human_help(run: RunData) -> Drawing | None:
    """Interventions per robot hour and the human share of control steps."""
    fleet = run.fleet
    if not fleet:
        return None
    curve = fleet_curves.intervention_curve(fleet)
    with Canvas("help", height=2.4) as canvas:
        left, right = canvas.axes(2)
        band(left, curve, SERIES[3], "interventions")
        left.set_title("Interventions per robot hour")
        band(right, fleet_curves.human_share_curve(fleet), SERIES[3], "share")
        right.set_title("Control steps executed by a human")
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        for axes in (left, right):
            axes.set_ylim(bottom=0)
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            f"Human help, rolling over {curve.window} episodes; the band on the left is a 95 % Poisson "
            "interval. An intervention is one uninterrupted stretch of human control. A policy that "
            "improves needs fewer, provided the operators' rule for taking over stays the same."
        ),
        description="Interventions per robot hour and human share of steps over robot hours.",
    )


def quantile_level(run: RunData) -> Drawing | None:
    """Adaptive quantile level and normalised entropy over updates (paper, Fig. 8)."""
    names = {
        "divl/quantile_level": ("quantile level", SERIES[0]),
        "divl/normalized_entropy": ("normalised entropy", SERIES[1]),
    }
    titles = {"offline": "Offline", "online": "Online"}
    stages = [stage for stage in titles if any(run.series(stage, name).value.size for name in names)]
    if not stages:
        return None
    with Canvas("quantile", height=2.5) as canvas:
        for axes, stage in zip(canvas.axes(len(stages), sharey=True), stages, strict=True):
            for name, (label, colour) in names.items():
                if run.series(stage, name).value.size:
                    line(axes, run.series(stage, name), colour, label)
            axes.set_title(titles[stage])
            axes.set_ylim(0, 1)
            axes.set_xlabel("learner updates")
            axes.legend(loc="best", ncols=2)
        svg = canvas.svg()
    return Drawing(
        svg=svg,
        caption=(
            "The level of the value distribution's quantile that serves as bootstrap target, clip(base"
            " - alpha x entropy), beside the normalised entropy of that distribution, as batch means "
            "(the paper's Fig. 8). As the distribution sharpens, entropy falls and the level rises "
            "towards its base: targets become less pessimistic."
        ),
        description="Quantile level and normalised entropy over learner updates.",
    )
