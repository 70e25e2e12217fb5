"""The experiment's page and its JSON, from whatever records there are."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lwd.data import durable
from lwd.evaluation.experiment import figures, paper, scores, tables
from lwd.evaluation.experiment.beside import level_section, outside_section, search_section, speed_section
from lwd.evaluation.experiment.claims import Claim, all_claims
from lwd.evaluation.experiment.records import CellRecord
from lwd.evaluation.experiment.scores import Results
from lwd.evaluation.run_summary import hours_in_words
from lwd.evaluation.statistics import Interval
from lwd.evaluation.svg import Drawing
from lwd.robots.sim.embodiments import CONTROL_HZ

FIGURES = "experiment"
"""Directory of the page's figures, next to it."""
VALUES = "value-episodes.json"
"""In it: captions of the figures of single episodes, which need a trained network and not records alone."""


def write_page(results: Results, out: Path) -> None:
    """Write experiment.json, experiment.md and the figures, each durably.

    Raises:
        ConfigError: if a file that the page reads beside the records is damaged.
    """
    claims = all_claims(results)
    drawn = {
        name: drawing
        for name, drawing in {
            "success": figures.success(results),
            "learning-curves": figures.learning_curves(results),
            "value-training": figures.value_training(results),
            "fleet-size": figures.fleet_size(results),
        }.items()
        if drawing is not None
    }
    durable.ensure_directory(out / FIGURES)
    for name, drawing in drawn.items():
        durable.replace(out / FIGURES / f"{name}.svg", drawing.as_file().encode())
    content = json.dumps(as_json(results, claims), indent=1)
    durable.replace(out / "experiment.json", (content + "\n").encode())
    durable.replace(out / "experiment.md", _page(results, claims, drawn, out).encode())


def write_value_figures(drawings: Sequence[Drawing], out: Path, *, key: str, about: str) -> None:
    """Keep the drawings of single episodes for the page.

    Args:
        key: of the cell whose network and episodes they show.
        about: which run they are from, in words.
    """
    names = [f"value-episode-{place}" for place in range(1, len(drawings) + 1)]
    for name, drawing in zip(names, drawings, strict=True):
        durable.replace(out / FIGURES / f"{name}.svg", drawing.as_file().encode())
    captions = {name: drawing.caption for name, drawing in zip(names, drawings, strict=True)}
    content = {"key": key, "about": about, "captions": captions}
    durable.replace(out / FIGURES / VALUES, json.dumps(content, indent=1).encode())


def value_figures_of(out: Path) -> str | None:
    """Key of the cell that the kept drawings of episodes are of; None without any."""
    path = out / FIGURES / VALUES
    return str(json.loads(path.read_text())["key"]) if path.exists() else None


def as_json(results: Results, claims: Sequence[Claim]) -> dict[str, Any]:
    """The content of experiment.json."""
    return {
        "setting": asdict(results.setting),
        "cells": [_cell(record) for record in results.records],
        "claims": [claim.as_json() for claim in claims],
    }


def _cell(record: CellRecord) -> dict[str, Any]:
    fleet = None if record.training is None else record.training.fleet
    return {
        "name": record.name,
        "key": record.key,
        "method": record.method,
        "stage": record.stage,
        "seed": record.seed,
        "robots": record.robots,
        "env_steps": record.env_steps,
        "episodes": record.episodes,
        "successes": {name: sum(task.successes) for name, task in record.tasks.items()},
        "mean": _mean(scores.mean({record.seed: record})),
        "error": record.error,
        "evaluation_s": record.wall_s,
        "training_s": None if record.training is None else record.training.wall_s,
        "updates": None if record.training is None else record.training.updates,
        "updates_per_s": None if record.training is None else record.training.updates_per_s,
        "env_steps_per_s": None if record.training is None else record.training.env_steps_per_s,
        "fleet_steps": None if fleet is None else fleet.env_steps,
        "robot_hours": None if fleet is None else fleet.robot_hours,
        "interventions": None if fleet is None else fleet.interventions,
    }


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else round(interval.mean, 4)


def _page(results: Results, claims: Sequence[Claim], drawn: dict[str, Drawing], out: Path) -> str:
    lines = [*_opening(results), "## Claims", "", "Of the paper:", ""]
    lines += [f"- {claim.sentence}" for claim in claims if claim.of_paper]
    lines += ["", "Of ours, beside it:", ""]
    lines += [f"- {claim.sentence}" for claim in claims if not claim.of_paper]
    lines += ["", "## Table 1: what the fleet learns", "", *tables.table_1(results), *_figure(drawn, "success")]
    lines += ["### Task by task", "", "Success; long tasks are on the right.", "", *tables.by_task(results)]
    lines += [
        "The paper's table, on its robots and tasks (short: success; long: mean sub-step score):",
        "",
        *tables.paper_table_1(results),
        "### Step-wise score",
        "",
        "As the paper counts: success on short tasks, on long ones the mean score of their sub-steps.",
        "",
        *tables.step_wise(results),
        "### Cycle time",
        "",
        f"Seconds to success on the long tasks, and the difference to SFT on starts where both succeed (the paper's "
        f"LWD online: {paper.CYCLE_TIME_S} s shorter).",
        "",
        *tables.cycle_times(results),
        "## Table 2: how values are learned",
        "",
        *tables.table_2(results),
        "## Table 3: the quantile level",
        "",
        *tables.table_3(results),
        *_level_words(results, claims, out),
        *_figure(drawn, "value-training"),
        "## What the value network expects along an episode",
        "",
        *_value_episodes(out),
        "## The fleet while it learned",
        "",
        "Interventions per robot hour over the whole online stage, and rolling at its beginning and end.",
        "",
        *tables.fleet_table(results),
        *_figure(drawn, "learning-curves"),
        "## Fleet size",
        "",
        "LWD online with fewer robots; updates follow the fleet's steps.",
        "",
        *tables.fleet_sizes(results),
        *_figure(drawn, "fleet-size"),
        "## What failed",
        "",
        *_failures(results),
        "## How settings were chosen",
        "",
        *search_section(results, out),
        "## A check from outside: OGBench's own tasks",
        "",
        *outside_section(out),
        "## Speed",
        "",
        *speed_section(results, out),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _opening(results: Results) -> list[str]:
    setting = results.setting
    finished = len(results.records) - len(results.failed)
    left = "" if setting.hours_left is None else f", about {setting.hours_left:.1f} hours of two cores are left"
    missing = setting.planned - finished - len(results.failed)
    state = "complete" if not missing else f"{missing} of {setting.planned} cells are missing{left}"
    if setting.other_records:
        state += f"; {setting.other_records} records of other settings are not shown"
    hours = hours_in_words(setting.env_steps / CONTROL_HZ / 3600)
    return [
        "# The paper's experiment, in simulation",
        "",
        f"Written by `lwd reproduce --budget {setting.budget}` from the records in `cells/`; the numbers are those of "
        f"`experiment.json`. State: {state}.",
        "",
        f"On {len(setting.tasks)} tasks of OGBench's scene: {setting.robots} simulated robots, {setting.env_steps:,} "
        f"control steps ({hours}) per online stage, in the world `{setting.world}` that no demonstration shows. "
        f"Training seeds {', '.join(map(str, setting.seeds))}; {setting.episodes} evaluation episodes per task, method "
        f"and seed on the same starts for every method (evaluation seed {setting.evaluation_seed}, never used to "
        "choose a setting), held-out wordings of the instructions, no help. Intervals are 95 %, bootstrapped over "
        "training seeds, then episodes. Differences are paired by training seed and start. *Holds*: the interval lies "
        "above zero; *does not hold*: below; *undecided here*: it contains zero.",
        "",
        "Everything but the method is shared: data, SFT policy, networks, updates, fleet steps. An en dash marks what "
        "has not been run.",
        "",
    ]


def _figure(drawn: dict[str, Drawing], name: str) -> list[str]:
    if name not in drawn:
        return []
    drawing = drawn[name]
    return [f"![{drawing.description}]({FIGURES}/{name}.svg)", "", drawing.caption, ""]


def _value_episodes(out: Path) -> list[str]:
    path = out / FIGURES / VALUES
    if not path.exists():
        return ["Drawn when LWD online has been evaluated.", ""]
    content = json.loads(path.read_text())
    lines = [f"{content['about']} After the paper's Figs. 6 and 9.", ""]
    for name, caption in content["captions"].items():
        lines += [f"![{caption}]({FIGURES}/{name}.svg)", "", caption, ""]
    return lines


def _level_words(results: Results, claims: Sequence[Claim], out: Path) -> list[str]:
    """What the level and the entropy did, since that says why an adaptive level helps or not."""
    lines = []
    for stage in ("offline", "online"):
        runs = results.runs("lwd", stage)
        levels, entropies = _ends(runs, "divl/quantile_level"), _ends(runs, "divl/normalized_entropy")
        if levels is None or entropies is None:
            continue
        theirs = paper.ENTROPY[stage]
        lines.append(
            f"- {stage}: normalised entropy went from {entropies[0]:.2f} to {entropies[1]:.2f} (the paper's from about "
            f"{theirs[0]:.2f} to {theirs[1]:.2f}), the level from {levels[0]:.2f} to {levels[1]:.2f} (the paper's "
            f"settled near {paper.QUANTILE_LEVEL[stage]:.2f})."
        )
    if not lines:
        return []
    verdict = next(claim.verdict for claim in claims if claim.name == "adaptive > constant level")
    if verdict in ("does not hold", "undecided here"):
        levels = _ends(results.runs("lwd", "offline"), "divl/quantile_level")
        if levels is not None:
            lines.append(
                f"- Adaptive levels are not shown to help. What there was to adapt: over the offline stage the level's "
                f"batch mean moved by {abs(levels[1] - levels[0]):.2f}, around the value that the constant one has "
                "throughout."
            )
            lines += level_section(results, out)
    return [*lines, ""]


def _ends(runs: scores.Runs, metric: str) -> tuple[float, float] | None:
    """A metric at the beginning and at the end of a stage (a tenth of its curve), averaged over seeds."""
    found = [
        record.training.curves[metric].y
        for record in runs.values()
        if record.training is not None and metric in record.training.curves
    ]
    if not found:
        return None
    tenths = [(values[: max(1, len(values) // 10)], values[-max(1, len(values) // 10) :]) for values in found]
    first, last = (sum(sum(part) / len(part) for part in parts) / len(parts) for parts in zip(*tenths, strict=True))
    return first, last


def _failures(results: Results) -> list[str]:
    if not results.failed:
        return ["No cell failed.", ""]
    return [*(f"- {record.name}: {record.error}" for record in results.failed), ""]
