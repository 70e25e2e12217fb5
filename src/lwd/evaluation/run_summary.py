"""The numbers of a run in one place: the HTML report, the terminal table and `--json` all show this."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lwd.evaluation import fleet_curves
from lwd.evaluation.fleet_curves import Quantiles
from lwd.evaluation.results import EvaluationResult
from lwd.evaluation.run_data import METHODS, RunData
from lwd.evaluation.statistics import Interval, paired_difference
from lwd.robots.sim import SIMULATED

_BEST_FIRST = ("lwd_online", "lwd_offline")


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method's line in the tables."""

    method: str
    name: str
    success: Interval
    short: Interval | None
    long: Interval | None
    sub_step_score: float
    steps_success: float | None
    episodes: int
    gain: Interval | None
    """Paired difference to SFT on the same evaluation seeds; None for SFT itself or where seeds differ."""


@dataclass(frozen=True, kw_only=True)
class FleetNumbers:
    """What the deployed fleet did."""

    robots: int
    episodes: int
    robot_hours: float
    snapshots: int
    first: Interval
    """Success without human help over the first window of episodes."""
    last: Interval
    window: int
    truncated: int
    interventions_per_hour: float
    human_share: float
    version_lag: float | None
    """Median versions behind the learner at the commit."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Measured speeds and latencies; None where the run recorded nothing."""

    upload_to_commit: Quantiles | None
    commit_to_learner: Quantiles | None
    publish_to_action: Quantiles | None
    """From publishing a policy to a robot's first episode with it; the rest of its last episode included."""
    updates_per_s: Mapping[str, float]
    """Per stage, from the mean time of an update."""
    fleet_steps_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The numbers of one run."""

    run: str
    headline: str
    methods: tuple[MethodRow, ...]
    fleet: FleetNumbers | None
    updates: Mapping[str, int]
    """Learner updates per stage."""
    timings: Timings
    missing: tuple[str, ...]
    """What this run does not have, in words."""


def summarise_run(run: RunData) -> RunSummary:
    """Compute the numbers of a run."""
    methods = tuple(_method_row(result, run.evaluations.get("sft")) for result in run.evaluations.values())
    fleet = _fleet_numbers(run)
    return RunSummary(
        run=run.path.name,
        headline=_headline(methods, fleet),
        methods=methods,
        fleet=fleet,
        updates={
            stage: max(row.update or 0 for row in run.learner_rows(stage))
            for stage in ("sft", "offline", "online")
            if run.learner_rows(stage)
        },
        timings=_timings(run),
        missing=_missing(run),
    )


def report_json(run: RunData) -> dict[str, Any]:
    """The numbers of a run as JSON-compatible data, for `lwd report --json`."""
    content: dict[str, Any] = _finite(asdict(summarise_run(run)))
    return content


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _method_row(result: EvaluationResult, sft: EvaluationResult | None) -> MethodRow:
    summary = result.summary
    groups = [
        None if group is None else Interval(mean=group.mean, low=group.ci95[0], high=group.ci95[1])
        for group in (summary.short, summary.long)
    ]
    return MethodRow(
        method=result.method,
        name=METHODS.get(result.method, result.method),
        success=Interval(mean=summary.mean, low=summary.ci95[0], high=summary.ci95[1]),
        short=groups[0],
        long=groups[1],
        sub_step_score=summary.mean_sub_step_score,
        steps_success=summary.mean_steps_success,
        episodes=len(result.episodes),
        gain=None if sft is None or sft is result or not _paired(result, sft) else _gain(result, sft),
    )


def _paired(result: EvaluationResult, other: EvaluationResult) -> bool:
    """Whether both met the same starts in the same world, so that episodes can be compared pair by pair."""
    starts = [[(item.task, item.index, item.seed) for item in each.episodes] for each in (result, other)]
    return result.world == other.world and starts[0] == starts[1]


def _gain(result: EvaluationResult, sft: EvaluationResult) -> Interval:
    return paired_difference([result.scores()], [sft.scores()])


def _fleet_numbers(run: RunData) -> FleetNumbers | None:
    fleet = run.fleet
    if not fleet:
        return None
    outcomes = fleet_curves.known(fleet)
    window = min(fleet_curves.window_size(len(outcomes)), len(outcomes))
    hours = fleet_curves.robot_hours(fleet)
    lag = fleet_curves.version_lag(run).lag
    return FleetNumbers(
        robots=len({episode.robot_id for episode in fleet}),
        episodes=len(fleet),
        robot_hours=hours,
        snapshots=len({episode.snapshot for episode in fleet}),
        first=fleet_curves.success(outcomes[:window], without_help=True),
        last=fleet_curves.success(outcomes[len(outcomes) - window :], without_help=True),
        window=window,
        truncated=len(fleet) - len(outcomes),
        interventions_per_hour=sum(episode.interventions for episode in fleet) / hours,
        human_share=sum(episode.human_steps for episode in fleet) / sum(episode.steps for episode in fleet),
        version_lag=float(np.median(lag)) if lag.size else None,
    )


def _timings(run: RunData) -> Timings:
    update_s = {stage: run.series(stage, "time/update_s").value for stage in ("sft", "offline", "online")}
    fleet = run.fleet
    first_s = min((episode.started_at_s for episode in fleet), default=0.0)
    wall_s = max((episode.committed_at_s for episode in fleet), default=0.0) - first_s
    return Timings(
        upload_to_commit=fleet_curves.quantiles(fleet_curves.upload_to_commit_s(run)),
        commit_to_learner=fleet_curves.quantiles(fleet_curves.commit_to_learner_s(run)),
        publish_to_action=fleet_curves.quantiles(fleet_curves.publish_to_action_s(run)),
        updates_per_s={stage: 1 / float(values.mean()) for stage, values in update_s.items() if values.size},
        fleet_steps_per_s=sum(episode.steps for episode in fleet) / wall_s if wall_s > 0 else None,
    )


def _headline(methods: tuple[MethodRow, ...], fleet: FleetNumbers | None) -> str:
    """One sentence, numbers first, that does not claim more than the interval allows."""
    rows = {row.method: row for row in methods}
    best = next((rows[method] for method in _BEST_FIRST if method in rows), None)
    sft = rows.get("sft")
    if best is not None and sft is not None:
        before, after = percent(sft.success.mean), percent(best.success.mean)
        if best.method == "lwd_online" and fleet is not None:
            opening = f"In {hours_in_words(fleet.robot_hours)} the fleet went from {before} to {after}"
        else:
            opening = f"{best.name} takes the SFT policy from {before} to {after}"
        return f"{opening} mean success{_verdict(best.gain)}."
    if best is not None:
        return f"{best.name} reaches {percent(best.success.mean)} mean success; SFT was not evaluated."
    if sft is not None:
        return f"The SFT policy reaches {percent(sft.success.mean)} mean success; LWD was not evaluated yet."
    if fleet is not None and fleet.window:
        return (
            f"In {hours_in_words(fleet.robot_hours)} the policy's success without help went from "
            f"{percent(fleet.first.mean)} to {percent(fleet.last.mean)} (first and last {fleet.window} fleet "
            "episodes; not evaluated on fixed seeds)."
        )
    return "Nothing was evaluated yet."


def _verdict(gain: Interval | None) -> str:
    if gain is None:
        return " (not on the same starts, so not paired)"
    span = f"{points(gain.mean)} points, 95 % interval {points(gain.low)} to {points(gain.high)}"
    return f" ({span})" if gain.excludes_zero else f" ({span}: within evaluation noise)"


def percent(share: float) -> str:
    """0.583 -> "58 %"; an unknown share is a dash."""
    return f"{100 * share:.0f} %" if np.isfinite(share) else "–"  # noqa: RUF001


def points(share: float) -> str:
    """0.214 -> "+21.4", with a true minus sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def hours_in_words(hours: float) -> str:
    """Robot hours, or robot minutes well below one hour."""
    return f"{hours:.1f} robot hours" if hours >= 0.95 else f"{60 * hours:.0f} robot minutes"


def _missing(run: RunData) -> tuple[str, ...]:
    stages = {"sft": "SFT", "offline": "offline", "online": "online"}
    missing = [
        *run.notes,
        *(f"No {stages[stage]} training was recorded." for stage in stages if not run.learner_rows(stage)),
    ]
    if not run.fleet:
        missing.append("No fleet episode was committed, so there is no learning curve, human help or version lag.")
    if not run.evaluations:
        brought = run.episodes and all(episode.embodiment not in SIMULATED for episode in run.episodes)
        why = "the run's robot is not one of the simulated ones" if brought else "run `lwd evaluate`"
        missing.append(f"No method was evaluated on fixed seeds ({why}).")
    if run.evaluations:
        wanted = ("sft", "lwd_offline", "lwd_online")
        missing += [f"{METHODS[name]} was not evaluated." for name in wanted if name not in run.evaluations]
    seeds = {(result.world, result.base_seed) for result in run.evaluations.values()}
    if len(seeds) > 1:
        missing.append("The methods were evaluated in different worlds or on different seeds; do not compare them.")
    return tuple(missing)
