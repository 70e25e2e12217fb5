"""One self-contained HTML file that says what a run did: numbers first, then figures with captions.

No script, no external resource; inline SVG follows the reader's light or dark theme. Text that comes from a
run (names, instructions, settings) is escaped.
"""

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from lwd.data import durable
from lwd.evaluation import diagnostics, plots
from lwd.evaluation.fleet_curves import Quantiles
from lwd.evaluation.run_data import RunData
from lwd.evaluation.run_summary import RunSummary, hours_in_words, percent, points, summarise_run
from lwd.evaluation.statistics import Interval
from lwd.evaluation.svg import Drawing, palette

_DASH = "&ndash;"


def write_report(run: RunData, path: Path, values: Sequence[Drawing] = ()) -> RunSummary:
    """Write the report atomically and return its numbers.

    Args:
        values: drawings of single episodes (see value_episodes.py), shown in their order.
    Raises:
        StoreError: if the disk is full or the directory cannot be written.
    """
    durable.replace(path.absolute(), render_report(run, values).encode())
    return summarise_run(run)


def render_report(run: RunData, values: Sequence[Drawing] = ()) -> str:
    """Return the report as HTML."""
    summary = summarise_run(run)
    sections = [
        _section("Success on the same evaluation starts", _figure(plots.success_by_task(run)), _methods(summary)),
        _section("The fleet while it learned", _figure(plots.learning_curve(run)), _figure(plots.human_help(run))),
        _section(
            "What the value network expects",
            *(_figure(value) for value in values),
            _figure(plots.quantile_level(run)),
        ),
        _section("Training", _figure(diagnostics.losses(run)), _figure(diagnostics.qam_diagnostics(run))),
        _section("Data and policies on their way", _figure(diagnostics.data_flow(run)), _timings(summary)),
        _section("Not in this run", _missing(summary, values)),
        _settings(run),
    ]
    template = Template(files("lwd.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        palette=palette(),
        title=html.escape(f"LWD: {summary.run}"),
        eyebrow=html.escape(f"Learning while deploying · run {summary.run}"),
        headline=html.escape(summary.headline),
        tiles="".join(_tiles(summary)),
        sections="\n".join(section for section in sections if section),
    )


def _section(title: str, *parts: str) -> str:
    """A section, or nothing where all of its parts are empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{html.escape(title)}</h2>\n{content}\n</section>" if content else ""


def _figure(drawing: Drawing | None) -> str:
    if drawing is None:
        return ""
    svg = drawing.svg.replace("<svg ", f'<svg aria-label="{html.escape(drawing.description)}" ', 1)
    return f"<figure>{svg}<figcaption>{html.escape(drawing.caption)}</figcaption></figure>"


def _tile(number: str, meaning: str) -> str:
    return f'<div class="tile"><b>{html.escape(number)}</b><span>{html.escape(meaning)}</span></div>'


def _tiles(summary: RunSummary) -> list[str]:
    tiles: list[str] = []
    rows = {row.method: row for row in summary.methods}
    best = rows.get("lwd_online") or rows.get("lwd_offline")
    if best is not None:
        before = f"{percent(rows['sft'].success.mean)} → " if "sft" in rows else ""
        tiles.append(_tile(f"{before}{percent(best.success.mean)}", f"mean success, SFT → {best.name}"))
        if best.long is not None and "sft" in rows and rows["sft"].long is not None:
            tiles.append(
                _tile(
                    f"{percent(rows['sft'].long.mean)} → {percent(best.long.mean)}",
                    "success on the long tasks",
                )
            )
    fleet = summary.fleet
    if fleet is not None:
        tiles.append(_tile(hours_in_words(fleet.robot_hours), f"{fleet.episodes:,} episodes, {fleet.robots} robots"))
        tiles.append(
            _tile(
                percent(fleet.human_share),
                f"of steps by humans, {fleet.interventions_per_hour:.0f} interventions/h",
            )
        )
    if summary.updates:
        done = " + ".join(f"{count:,} {stage}" for stage, count in summary.updates.items() if stage != "sft")
        total = sum(count for stage, count in summary.updates.items() if stage != "sft")
        tiles.append(_tile(f"{total or summary.updates['sft']:,}", f"learner updates ({done or 'SFT'})"))
    commit = summary.timings.upload_to_commit
    if commit is not None:
        tiles.append(_tile(_seconds(commit.p50_s), f"upload → committed, P50 (P99 {_seconds(commit.p99_s)})"))
    return tiles


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return _DASH
    return f"{percent(interval.mean)} <small>{100 * interval.low:.0f}&ndash;{100 * interval.high:.0f}</small>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells are HTML already."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _methods(summary: RunSummary) -> str:
    if not summary.methods:
        return ""
    rows = [
        (
            html.escape(row.name),
            _interval(row.success),
            _interval(row.short),
            _interval(row.long),
            percent(row.sub_step_score),
            _DASH if row.steps_success is None else f"{row.steps_success:.0f}",
            _gain(row.gain),
        )
        for row in summary.methods
    ]
    head = (
        "Method",
        "Mean success",
        "Short tasks",
        "Long tasks",
        "Sub-steps",
        "Steps to success",
        "Points over SFT",
    )
    return _table(head, rows)


def _gain(gain: Interval | None) -> str:
    if gain is None:
        return _DASH
    return f"{points(gain.mean)} <small>{points(gain.low)} to {points(gain.high)}</small>"


def _timings(summary: RunSummary) -> str:
    timings = summary.timings
    rows: list[tuple[str, str, str]] = []
    for name, latency in (
        ("Episode uploaded → committed", timings.upload_to_commit),
        ("Committed → in the learner's log", timings.commit_to_learner),
        ("Policy published → a robot's first episode with it", timings.publish_to_action),
    ):
        rows.append((name, *_latency(latency)))
    for stage, rate in timings.updates_per_s.items():
        rows.append((f"Learner updates per second, {stage}", f"{rate:.1f}", ""))
    if timings.fleet_steps_per_s is not None:
        rows.append(("Control steps per second, whole fleet", f"{timings.fleet_steps_per_s:.0f}", ""))
    if summary.fleet is not None and summary.fleet.version_lag is not None:
        rows.append(("Policy versions behind the learner at the commit", f"{summary.fleet.version_lag:.0f}", ""))
    measured = [row for row in rows if row[1] != _DASH]
    return _table(("", "P50 or mean", "P99"), measured) if measured else ""


def _latency(latency: Quantiles | None) -> tuple[str, str]:
    return (_DASH, _DASH) if latency is None else (_seconds(latency.p50_s), _seconds(latency.p99_s))


def _missing(summary: RunSummary, values: Sequence[Drawing]) -> str:
    notes = list(summary.missing)
    if not values:
        notes.append("No value network or no finished episode was at hand, so no episode is drawn.")
    if summary.timings.publish_to_action is None and summary.fleet is not None:
        notes.append("No robot acted with a policy that this run published.")
    return f'<ul class="missing">{"".join(f"<li>{html.escape(note)}</li>" for note in notes)}</ul>' if notes else ""


def _settings(run: RunData) -> str:
    if not run.config:
        return ""
    settings = html.escape(json.dumps(run.config, indent=2, default=str))
    return _section("Settings", f"<details><summary>config.json</summary><pre>{settings}</pre></details>")
