"""A run in the terminal: the same numbers as the report, in a few lines."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lwd.evaluation.plots import rate, task_order
from lwd.evaluation.results import EvaluationResult
from lwd.evaluation.run_data import METHODS, RunData
from lwd.evaluation.run_summary import hours_in_words, percent, points, summarise_run


def success_table(results: Mapping[str, EvaluationResult]) -> Table:
    """Success per task and mean (95 % interval) of every method."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task")
    for method in results:
        table.add_column(METHODS.get(method, method), justify="right")
    rows = [*task_order(results), "Short", "Long", "Mean"]
    for row in rows:
        cells = []
        for result in results.values():
            mark = rate(result, row)
            if mark is None:
                cells.append("-")
            else:
                mean, low, high = mark
                cells.append(f"{percent(mean)} [dim]{100 * low:.0f}-{100 * high:.0f}[/dim]")
        table.add_row(row, *cells, style="bold" if row == "Mean" else "", end_section=row == rows[-4])
    return table


def run_table(run: RunData) -> RenderableType:
    """The headline, success per task, and the fleet's numbers."""
    summary = summarise_run(run)
    parts: list[RenderableType] = [Text(summary.headline, style="bold")]
    if run.evaluations:
        parts += [Text(), success_table(run.evaluations)]
    gains = [
        f"{row.name} over SFT: {points(row.gain.mean)} points ({points(row.gain.low)} to {points(row.gain.high)})"
        for row in summary.methods
        if row.gain is not None
    ]
    if gains:
        parts += [Text(), Text("\n".join(gains))]
    fleet = summary.fleet
    if fleet is not None:
        lag = "" if fleet.version_lag is None else f", {fleet.version_lag:.0f} versions behind the learner (median)"
        parts += [
            Text(),
            Text(
                f"Fleet: {fleet.robots} robots, {fleet.episodes} episodes, "
                f"{hours_in_words(fleet.robot_hours)}, {fleet.snapshots} snapshots{lag}\nHelp: "
                f"{fleet.interventions_per_hour:.0f} interventions per robot hour, "
                f"{percent(fleet.human_share)} of steps by humans"
            ),
        ]
    if summary.missing:
        parts += [Text(), Text("\n".join(summary.missing), style="dim")]
    return Group(*parts)
