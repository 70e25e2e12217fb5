"""The experiment's tables in Markdown. A number that is not there is an en dash."""

from collections.abc import Sequence

from lwd.evaluation.experiment import paper, scores
from lwd.evaluation.experiment.records import Stage
from lwd.evaluation.experiment.scores import GROUPS, Results, Runs
from lwd.evaluation.statistics import Interval

DASH = "–"  # noqa: RUF001

ROWS: tuple[tuple[str, Stage], ...] = (
    ("sft", "sft"),
    ("recap", "offline"),
    ("recap", "online"),
    ("hg_dagger", "online"),
    ("lwd", "offline"),
    ("lwd", "online"),
    ("lwd_paper", "offline"),
    ("lwd_paper", "online"),
    ("qam", "offline"),
    ("qam", "online"),
    ("best_of_n", "offline"),
    ("best_of_n", "online"),
    ("fql", "offline"),
    ("fql", "online"),
)
"""Of table 1."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is left, the others right."""
    return [
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def share(value: float | None) -> str:
    """A score in [0, 1]."""
    return DASH if value is None else f"{value:.2f}"


def with_interval(interval: Interval | None) -> str:
    return DASH if interval is None else f"{interval.mean:.2f} ({interval.low:.2f}-{interval.high:.2f})"


def row_name(results: Results, method: str, stage: str) -> str:
    words = results.setting.methods[method]
    return words if stage == "sft" else f"{words} {stage}"


def table_1(results: Results) -> list[str]:
    """Means over tasks with their intervals, and the paper's mean."""
    rows = []
    for method, stage in ROWS:
        runs = results.runs(method, stage)
        published = paper.TABLE_1.get((method, stage))
        rows.append(
            [
                row_name(results, method, stage),
                *(with_interval(scores.mean(runs, group)) for group in GROUPS),
                str(len(runs)) if runs else DASH,
                DASH if published is None else f"{published[-1]:.2f}",
            ]
        )
    return markdown(["", "**all tasks**", "short", "long", "seeds", "paper"], rows)


def by_task(results: Results) -> list[str]:
    """The same rows task by task, in the paper's layout."""
    tasks = results.setting.tasks
    rows = [
        [
            row_name(results, method, stage),
            *(share(scores.task_mean(runs, task)) for task in tasks),
            share(None if (found := scores.mean(runs)) is None else found.mean),
        ]
        for method, stage in ROWS
        for runs in [results.runs(method, stage)]
    ]
    return markdown(["ours", *(task.replace("_", " ") for task in tasks), "mean"], rows)


def paper_table_1(results: Results) -> list[str]:
    """The paper's own table, on its own tasks."""
    header = ["paper", *paper.TASKS, "mean"]
    rows = [
        [row_name(results, method, stage), *(f"{value:.2f}" for value in values)]
        for (method, stage), values in paper.TABLE_1.items()
    ]
    return markdown(header, rows)


def step_wise(results: Results) -> list[str]:
    """The paper's score: success on short tasks, mean sub-step score on long ones."""
    rows = []
    for method, stage in ROWS:
        runs = results.runs(method, stage)
        if not runs:
            continue
        published = paper.TABLE_1.get((method, stage))
        theirs = [DASH, DASH] if published is None else [f"{sum(part) / 4:.2f}" for part in _halves(published)]
        rows.append(
            [
                row_name(results, method, stage),
                with_interval(scores.mean(runs, "short")),
                theirs[0],
                with_interval(scores.mean(runs, "long", "sub_steps")),
                theirs[1],
            ]
        )
    return markdown(["", "short: success", "paper", "long: sub-steps", "paper"], rows)


def _halves(published: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return published[:4], published[4:8]


def table_2(results: Results) -> list[str]:
    """Expectile regression beside DIVL."""
    cells = [(group, stage) for group in ("short", "long") for stage in ("offline", "online")]
    rows = []
    for method, words in (("expectile", "expectile"), ("lwd", "DIVL")):
        rows.append(
            [words]
            + [
                f"{with_interval(scores.mean(results.runs(method, stage), group))} "  # type: ignore[arg-type]
                f"[{paper.TABLE_2[method][group, stage]:.2f}]"
                for group, stage in cells
            ]
        )
    return markdown(["ours [paper]", *(f"{group} {stage}" for group, stage in cells)], rows)


def table_3(results: Results) -> list[str]:
    """A constant quantile level beside the adaptive one, offline."""
    rows = []
    for method, words in (("constant_level", "constant"), ("lwd", "adaptive")):
        runs = results.runs(method, "offline")
        levels = mean_of(runs, "divl/quantile_level")
        rows.append(
            [
                words,
                DASH if levels is None else f"{levels:.3f}",
                *(with_interval(scores.mean(runs, group)) for group in GROUPS),
                f"{paper.TABLE_3[method]:.2f}",
            ]
        )
    return markdown(["offline", "mean level", "**all tasks**", "short", "long", "paper"], rows)


def mean_of(runs: Runs, metric: str) -> float | None:
    """A metric's mean over the stage, averaged over seeds; None if no run recorded it."""
    found = [
        record.training.means[metric]
        for record in runs.values()
        if record.training is not None and metric in record.training.means
    ]
    return sum(found) / len(found) if found else None


def cycle_times(results: Results) -> list[str]:
    """Seconds to success on the long tasks, and saved against SFT on the same starts."""
    sft = results.runs("sft", "sft")
    rows = []
    for method, stage in ROWS:
        runs = results.runs(method, stage)
        taken, saved = scores.cycle_time_s(runs), scores.time_saved_s(runs, sft)
        if taken is not None:
            paired = stage != "sft" and saved is not None
            rows.append(
                [
                    row_name(results, method, stage),
                    f"{taken.mean:.2f}",
                    f"{saved.mean:+.2f} ({saved.low:+.2f} to {saved.high:+.2f})" if paired and saved else DASH,
                ]
            )
    return markdown(["long tasks", "mean, s", "shorter than SFT by, s"], rows)


def fleet_table(results: Results) -> list[str]:
    """What the fleets of the online stages did."""
    rows = []
    for method, stage in ROWS:
        runs = results.runs(method, stage) if stage == "online" else {}
        fleets = [item.training.fleet for item in runs.values() if item.training is not None and item.training.fleet]
        if not fleets:
            continue
        hours, steps = sum(fleet.robot_hours for fleet in fleets), sum(fleet.env_steps for fleet in fleets)
        first, last = (
            [f"{sum(values) / len(values):.0f}" if values else DASH]
            for values in (
                [fleet.interventions_per_hour.y[place] for fleet in fleets if fleet.interventions_per_hour.y]
                for place in (0, -1)
            )
        )
        rows.append(
            [
                results.setting.methods[method],
                str(len(fleets)),
                f"{hours / len(fleets):.2f}",
                f"{sum(fleet.episodes for fleet in fleets) / len(fleets):.0f}",
                f"{sum(fleet.interventions for fleet in fleets) / hours:.0f}",
                f"{first[0]} → {last[0]}",
                f"{100 * sum(fleet.human_steps for fleet in fleets) / steps:.0f} %",
            ]
        )
    header = ["online", "seeds", "robot hours", "episodes", "interventions/h", "first → last", "human steps"]
    return markdown(header, rows)


def fleet_sizes(results: Results) -> list[str]:
    """Success against the number of robots."""
    setting = results.setting
    rows = []
    for robots in setting.fleet_sizes:
        equal_clock = results.runs("lwd", "online", robots=robots, env_steps=setting.steps_at_equal_wall_clock(robots))
        equal_hours = results.runs("lwd", "online", robots=robots, env_steps=setting.env_steps)
        rows.append(
            [
                str(robots),
                f"{setting.steps_at_equal_wall_clock(robots):,}",
                with_interval(scores.mean(equal_clock)),
                f"{setting.env_steps:,}",
                with_interval(scores.mean(equal_hours)),
            ]
        )
    header = ["robots", "steps", "equal wall clock", "steps", "equal robot hours"]
    return markdown(header, rows)
