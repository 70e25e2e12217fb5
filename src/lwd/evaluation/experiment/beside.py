"""Sections of the page about work beside the cells: the search for settings, the outside check, speed.

Each reads a JSON file that is committed next to the page, and says so where there is none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from lwd.errors import ConfigError
from lwd.evaluation.experiment.scores import Results
from lwd.evaluation.experiment.tables import DASH, ROWS, markdown, row_name

_T = TypeVar("_T")


class SearchRun(BaseModel):
    """One setting that was tried on validation starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    setting: str
    value: str | int | float | bool | None
    seed: int
    success: float | None
    episodes: int
    minutes: float


class Published(BaseModel):
    """A figure of another paper."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    method: str
    mean: float
    pm: float


class OutsideRun(BaseModel):
    """One result on another benchmark."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    env: str
    method: str
    seed: int
    updates: int
    extraction: str
    """What acts: `qam`, or `best_of_n` with the same critic."""
    temperature_fraction: float
    """Of Q's spread over the reference's chunks: QAM's temperature in training."""
    success: float
    episodes: int
    ci95: tuple[float, float]
    score: float | None = None
    """Mean share of the sub-goals open at the start that were met at once; None: the run did not measure it."""
    published: Published | tuple[Published, ...] = ()
    """One or several figures for the same task."""


class Floors(BaseModel):
    """floors.json: the rates of one core that does nothing but what cannot be avoided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sft_updates_per_s: float
    """The matrix products of an SFT update alone."""
    lwd_updates_per_s: float
    """The matrix products of LWD's update alone, as the recipe mixes critic's and actor's."""
    env_steps_per_s: float
    """One simulator alone."""


FLOORS = "floors.json"


class LevelRun(BaseModel):
    """What the adaptive level does in one finished offline run, at the states that targets bootstrap from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    bootstrapped: float
    """Share of the replay's targets that bootstrap; the others end with their episode."""
    entropy_std: float
    """Standard deviation of the normalised entropy over states."""
    level_mean: float
    level_std: float
    value_std: float
    """Mean standard deviation of a state's value distribution."""
    shift_mean: float
    """Mean of the adaptive target minus the one with all levels at their mean."""
    shift_abs: float
    """Mean size of that difference."""
    td_error_rms: float
    """Of the critics against the adaptive targets."""


class Levels(BaseModel):
    """quantile_level.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[str, ...]
    """Of the evaluation cells whose runs were measured."""
    states: int
    runs: tuple[LevelRun, ...]


LEVELS = "quantile_level.json"


class OutsideCheck(BaseModel):
    """ogbench_check.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    benchmarks: tuple[OutsideRun, ...]
    data: str


def search_section(results: Results, out: Path) -> list[str]:
    """What was tried to find the settings, and what that cost.

    Raises:
        ConfigError: if search.json is not as described.
    """
    runs = _read(out / "search.json", TypeAdapter(list[SearchRun]))
    if runs is None:
        return ["No search is recorded (`search.json` is not there).", ""]
    rows = [
        [
            results.setting.methods.get(run.method, run.method),
            run.setting.replace("_", " "),
            str(run.value),
            str(run.seed),
            DASH if run.success is None else f"{run.success:.3f}",
            str(run.episodes),
            f"{run.minutes:.0f}",
        ]
        for run in runs
    ]
    hours = sum(run.minutes for run in runs) / 60
    return [
        f"Settings were chosen on validation starts (evaluation seeds 0 to 10), never on those of the tables: "
        f"{len(runs)} runs, {hours:.1f} hours.",
        "",
        *markdown(["method", "setting", "value", "seed", "success", "episodes", "minutes"], rows),
    ]


def outside_section(out: Path) -> list[str]:
    """Our methods on OGBench's own tasks, beside published figures.

    Raises:
        ConfigError: if ogbench_check.json is not as described.
    """
    check = _read(out / "ogbench_check.json", TypeAdapter(OutsideCheck))
    if check is None or not check.benchmarks:
        return ["Not run yet (`ogbench_check.json` is not there).", ""]
    rows = [
        [
            run.env,
            run.method,
            "policy" if run.extraction == "qam" else run.extraction.replace("_", " "),
            f"{run.temperature_fraction:g}",
            str(run.seed),
            f"{run.updates:,}",
            f"{run.success:.2f} ({run.ci95[0]:.2f}-{run.ci95[1]:.2f})",
            DASH if run.score is None else f"{run.score:.2f}",
            str(run.episodes),
            "; ".join(f"{item.method} {item.mean:g} ± {item.pm:g}" for item in _several(run.published)) or DASH,
        ]
        for run in check.benchmarks
    ]
    header = [
        "environment",
        "method",
        "acting",
        "temperature",
        "seed",
        "updates",
        "success",
        "sub-goals",
        "episodes",
        "published",
    ]
    about = "*Sub-goals*: the share of those open at the start that were met at once, where it was measured."
    return [f"{check.data} {about}", "", *markdown(header, rows)]


def read_levels(out: Path) -> Levels | None:
    """Return what was measured of the quantile levels; None: nothing yet.

    Raises:
        ConfigError: if quantile_level.json is not as `lwd reproduce` writes it.
    """
    return _read(out / LEVELS, TypeAdapter(Levels))


def level_section(results: Results, out: Path) -> list[str]:
    """How far apart adaptive and constant levels put the targets, beside what the critics must tell apart.

    Raises:
        ConfigError: if quantile_level.json is not as `lwd reproduce` writes it.
    """
    found = read_levels(out)
    if found is None or not found.runs:
        return []
    mean = {
        name: sum(getattr(run, name) for run in found.runs) / len(found.runs)
        for name in LevelRun.model_fields
        if name != "seed"
    }
    spreads = [
        record.training.curves["critic/q_spread"].y[-1]
        for record in results.runs("lwd", "offline").values()
        if record.training is not None and "critic/q_spread" in record.training.curves
    ]
    lines = [
        f"- Measured after the offline stage, at {found.states:,} states of the replay and {len(found.runs)} seeds "
        f"(`{LEVELS}`): the entropy differs between states by {mean['entropy_std']:.3f} (standard deviation), the "
        f"level by {mean['level_std']:.3f} around {mean['level_mean']:.2f}. Beside a constant level at that mean this "
        f"moves a bootstrapped target by {mean['shift_abs']:.4f} in size, {mean['shift_mean']:+.4f} on average.",
        f"- What that has to stand out from: a state's value distribution is {mean['value_std']:.3f} wide, the critics "
        f"miss their targets by {mean['td_error_rms']:.3f} (root mean square)"
        + (
            f", and over the reference's actions at one state Q differs by {sum(spreads) / len(spreads):.3f}."
            if spreads
            else "."
        ),
    ]
    small = mean["shift_abs"] < 0.5 * mean["td_error_rms"]
    lines.append(
        "- The change of the targets is "
        + (
            "small beside the critics' own error, and a part of it is common to all actions of a state: the likely "
            "reason why the policies do not differ. Where a state's values lie so close together every statistic of "
            "them is nearly the same; that may be why DIVL and expectile regression end alike here, too."
            if small
            else "not small beside the critics' own error, so that is not why adaptive levels do not help; what is was "
            "not looked into."
        )
    )
    return lines


def _several(published: Published | tuple[Published, ...]) -> tuple[Published, ...]:
    return (published,) if isinstance(published, Published) else published


def speed_section(results: Results, out: Path) -> list[str]:
    """Updates and environment steps per second of the cells, beside the arithmetic's and the simulator's floor.

    Raises:
        ConfigError: if floors.json or bench.json is not as `lwd reproduce` or `make bench` writes it.
    """
    floors = _read(out / FLOORS, TypeAdapter(Floors))
    rows = []
    for method, stage in ROWS:
        runs = results.runs(method, stage)
        trained = [item.training for item in runs.values() if item.training is not None]
        if not trained:
            continue
        updates, steps = _mean([item.updates_per_s for item in trained]), _mean([t.env_steps_per_s for t in trained])
        update_floor = None
        if floors is not None and method in ("sft", "lwd"):
            update_floor = floors.sft_updates_per_s if method == "sft" else floors.lwd_updates_per_s
        rows.append(
            [
                row_name(results, method, stage),
                _number(updates, "{:.1f}"),
                _ratio(updates, update_floor),
                _number(steps, "{:.0f}"),
                _ratio(steps, None if floors is None else floors.env_steps_per_s),
                _number(_mean([item.wall_s / 60 for item in trained]), "{:.1f}"),
                _number(_mean([item.wall_s / 60 for item in runs.values()]), "{:.1f}"),
            ]
        )
    header = ["", "updates/s", "of floor", "environment steps/s", "of floor", "training, min", "evaluation, min"]
    lines = markdown(header, rows)
    if floors is not None:
        lines += [
            f"Floors, of one core alone: {floors.lwd_updates_per_s:.1f} updates/s if an LWD update were nothing but "
            f"its matrix products ({floors.sft_updates_per_s:.1f} for SFT), {floors.env_steps_per_s:.0f} steps/s of "
            "the bare simulator. SFT and offline learning run two cells side by side. Online, learner and fleet share "
            "the cores, and the learner waits for data by design (a fixed number of updates per step): both ratios "
            "together say how busy the cores are.",
            "",
        ]
    longest = max((item.training.wall_s for item in results.records if item.training is not None), default=0.0)
    if longest:
        lines += [f"The longest cell trained for {longest / 60:.1f} minutes.", ""]
    return lines + _floors(_read(out / "bench.json", TypeAdapter(dict[str, dict[str, Any]])))


def _floors(bench: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    names = {
        "learner/2x256/float32/updates": "a whole LWD update (V, Q and policy; batch 256; 2 x 256 networks)",
        "fleet/env-steps": "a robot host (policy, recording and shipping included)",
    }
    found = [(words, bench[name]) for name, words in names.items() if bench is not None and name in bench]
    if not found:
        return []
    return [
        "Alone on the machine, by `make bench` (1 would be the floor itself):",
        "",
        *(
            f"- {words}: {entry['value']:.4g} {entry['unit']}, **{entry['ratio']:.2f}** of {entry['baseline']}."
            for words, entry in found
        ),
        "",
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)


def _ratio(value: float | None, floor: float | None) -> str:
    return DASH if value is None or floor is None else f"{value / floor:.2f}"


def _read(path: Path, adapter: TypeAdapter[_T]) -> _T | None:
    if not path.exists():
        return None
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(f"{path}: {where}: {first['msg']}; mend it, or move it away") from error
