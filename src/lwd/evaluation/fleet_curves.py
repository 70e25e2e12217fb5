"""Curves over the fleet's time: success, human help, version lag and the latency of the data path.

Fleet time is robot time: control steps divided by the control rate, summed in the order of the commit log.
Two robots that work for an hour make two robot hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwd.evaluation.run_data import Doubles, FleetEpisode, RunData
from lwd.evaluation.statistics import Interval, wilson_interval
from lwd.types import Outcome


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A rolling estimate over fleet hours with its 95 % interval (equal to `mean` where there is none)."""

    hours: Doubles
    mean: Doubles
    low: Doubles
    high: Doubles
    window: int
    """Episodes per point."""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Percentiles of a latency, in seconds."""

    count: int
    p50_s: float
    p99_s: float


def robot_hours(episodes: Sequence[FleetEpisode]) -> float:
    return float(sum(episode.hours for episode in episodes))


def known(episodes: Sequence[FleetEpisode]) -> list[FleetEpisode]:
    """The episodes whose outcome is known (a truncated one is neither success nor failure)."""
    return [episode for episode in episodes if episode.outcome.terminal]


def window_size(count: int) -> int:
    """Episodes per rolling window: an eighth of all, within [20, 100]."""
    return int(np.clip(count // 8, 20, 100))


def success(episodes: Sequence[FleetEpisode], *, without_help: bool = False) -> Interval:
    """Share of successes with its Wilson interval; `without_help`: a human's touch rules success out."""
    outcomes = known(episodes)
    successes = sum(
        episode.outcome is Outcome.SUCCESS and not (without_help and episode.human_steps > 0) for episode in outcomes
    )
    return wilson_interval(successes, len(outcomes))


def success_curve(episodes: Sequence[FleetEpisode], *, without_help: bool = False) -> Curve:
    """Rolling success over fleet hours; the first point needs a full window (or all episodes, if fewer)."""
    ends = np.cumsum([episode.hours for episode in episodes])
    outcomes = [(end, episode) for end, episode in zip(ends, episodes, strict=True) if known([episode])]
    window = min(window_size(len(outcomes)), len(outcomes))
    points = [
        (
            outcomes[last - 1][0],
            success([item[1] for item in outcomes[last - window : last]], without_help=without_help),
        )
        for last in range(max(window, 1), len(outcomes) + 1)
    ]
    return _curve([(hour, rate.mean, rate.low, rate.high) for hour, rate in points], window)


def intervention_curve(episodes: Sequence[FleetEpisode]) -> Curve:
    """Rolling interventions per robot hour, with the Poisson interval mean +- 1.96 sqrt(count) / hours."""
    window = min(window_size(len(episodes)), len(episodes))
    hours = np.asarray([episode.hours for episode in episodes])
    ends = np.cumsum(hours)
    rows: list[tuple[float, float, float, float]] = []
    for last in range(max(window, 1), len(episodes) + 1):
        span = float(hours[last - window : last].sum())
        count = sum(episode.interventions for episode in episodes[last - window : last])
        half = 1.96 * float(np.sqrt(count)) / span
        rows.append((float(ends[last - 1]), count / span, max(0.0, count / span - half), count / span + half))
    return _curve(rows, window)


def human_share_curve(episodes: Sequence[FleetEpisode]) -> Curve:
    """Rolling share of control steps that a human executed."""
    window = min(window_size(len(episodes)), len(episodes))
    ends = np.cumsum([episode.hours for episode in episodes])
    rows = []
    for last in range(max(window, 1), len(episodes) + 1):
        part = episodes[last - window : last]
        share = sum(episode.human_steps for episode in part) / sum(episode.steps for episode in part)
        rows.append((float(ends[last - 1]), share, share, share))
    return _curve(rows, window)


def _curve(rows: Sequence[tuple[float, float, float, float]], window: int) -> Curve:
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    return Curve(hours=table[:, 0], mean=table[:, 1], low=table[:, 2], high=table[:, 3], window=window)


@dataclass(frozen=True, kw_only=True)
class VersionLag:
    """For each fleet episode, how many versions newer than its policy were out when it was committed."""

    hours: Doubles
    lag: Doubles


def version_lag(run: RunData) -> VersionLag:
    """Newest version published before the commit minus the version that acted; empty without policies."""
    published = np.asarray([policy.published_at_s for policy in run.policies], dtype=np.float64)
    ends = np.cumsum([episode.hours for episode in run.fleet])
    rows = [
        # Clocks differ a little between hosts, but a robot is never ahead of the learner.
        (end, max(0, run.policies[place - 1].version - episode.policy_version))
        for end, episode in zip(ends, run.fleet, strict=True)
        if (place := int(np.searchsorted(published, episode.committed_at_s, side="right")))
    ]
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return VersionLag(hours=table[:, 0], lag=table[:, 1])


def publish_to_action_s(run: RunData) -> Doubles:
    """Seconds from publishing a policy until a robot begins its first episode with it, per robot and policy.

    Most of it is the rest of the robot's previous episode: policies are swapped only between episodes.
    Versions that a robot skipped are not in it.
    """
    published = {policy.version: policy.published_at_s for policy in run.policies}
    first: dict[tuple[str, int], float] = {}
    for episode in run.fleet:
        key = (episode.robot_id, episode.policy_version)
        first[key] = min(first.get(key, np.inf), episode.started_at_s)
    waits = [started - published[version] for (_, version), started in first.items() if version in published]
    return np.maximum(np.asarray(waits, dtype=np.float64), 0.0)


def upload_to_commit_s(run: RunData) -> Doubles:
    """Per fleet episode: seconds from the end of its upload to its commit."""
    return np.asarray([max(0.0, item.committed_at_s - item.uploaded_at_s) for item in run.fleet], dtype=np.float64)


def commit_to_learner_s(run: RunData) -> Doubles:
    """Per fleet episode: seconds from its commit until the learner first logged a snapshot with it.

    The learner logs every few dozen updates, so this is an upper bound.
    """
    seen = [(row.time_s, row.snapshot) for row in run.learner_rows("online") if row.snapshot is not None]
    if not seen:
        return np.zeros(0)
    times = np.asarray([time for time, _ in seen])
    snapshots = np.maximum.accumulate(np.asarray([number for _, number in seen]))
    waits = []
    for episode in run.fleet:
        place = int(np.searchsorted(snapshots, episode.snapshot, side="left"))
        if place < len(times):
            waits.append(max(0.0, float(times[place]) - episode.committed_at_s))
    return np.asarray(waits, dtype=np.float64)


def quantiles(seconds: Doubles) -> Quantiles | None:
    """P50 and P99; None without a measurement."""
    if seconds.size == 0:
        return None
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return Quantiles(count=int(seconds.size), p50_s=float(p50), p99_s=float(p99))
