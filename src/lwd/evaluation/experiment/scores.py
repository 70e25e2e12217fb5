"""The experiment's records by condition, and their means and paired differences over groups of tasks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lwd.evaluation.experiment.records import CellRecord, Stage
from lwd.evaluation.statistics import Interval, mean_over_tasks, paired_difference

Group = Literal["all", "short", "long"]
GROUPS: tuple[Group, ...] = ("all", "short", "long")
Measure = Literal["success", "sub_steps"]
Runs = Mapping[int, CellRecord]
"""Training seed -> finished record."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a page of results is about."""

    budget: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    """Short ones first."""
    episodes: int
    """Per task, method and seed."""
    evaluation_seed: int
    world: str
    robots: int
    env_steps: int
    """Of the fleet, in the main online stages."""
    fleet_sizes: tuple[int, ...]
    methods: Mapping[str, str]
    """Method -> name in tables."""
    planned: int
    """Cells of the whole experiment."""
    other_records: int = 0
    """Records in the same directory that belong to other settings, so to no cell of this experiment."""
    hours_left: float | None = None
    """An estimate; None if it is not known."""

    def steps_at_equal_wall_clock(self, robots: int) -> int:
        """Steps of a smaller fleet in the time that the whole one needs for `env_steps`."""
        return self.env_steps * robots // self.robots


class Results:
    """The records that are there."""

    def __init__(self, setting: Setting, records: Iterable[CellRecord]) -> None:
        self.setting = setting
        self.records = sorted(records, key=lambda record: record.name)

    @property
    def failed(self) -> list[CellRecord]:
        return [record for record in self.records if record.failed]

    def runs(self, method: str, stage: Stage, *, robots: int | None = None, env_steps: int | None = None) -> Runs:
        """Return the finished records of a condition by training seed.

        Args:
            robots: of the online stage; None: the whole fleet.
            env_steps: likewise.
        """
        online = stage == "online"
        fleet = self.setting.robots if robots is None else robots, env_steps or self.setting.env_steps
        return {
            record.seed: record
            for record in self.records
            if not record.failed
            and (record.method, record.stage) == (method, stage)
            and (not online or (record.robots, record.env_steps) == fleet)
        }


def scores(record: CellRecord, group: Group = "all", measure: Measure = "success") -> dict[str, Sequence[float]]:
    """Task -> scores of its episodes, for the tasks of a group."""
    return {
        name: [float(value) for value in (task.successes if measure == "success" else task.sub_steps)]
        for name, task in record.tasks.items()
        if group == "all" or task.long_horizon == (group == "long")
    }


def mean(runs: Runs, group: Group = "all", measure: Measure = "success") -> Interval | None:
    """Mean over the group's tasks; None without a run or without a task of the group."""
    found = [scored for record in runs.values() if (scored := scores(record, group, measure))]
    return mean_over_tasks(found) if found else None


def task_mean(runs: Runs, task: str) -> float | None:
    """Success on one task, averaged over seeds; None without a run that has it."""
    found = [scored[task] for record in runs.values() if task in (scored := scores(record))]
    return sum(sum(values) / len(values) for values in found) / len(found) if found else None


def shared_seeds(ours: Runs, baseline: Runs) -> list[int]:
    return sorted(ours.keys() & baseline.keys())


def difference(ours: Runs, baseline: Runs, group: Group = "all", measure: Measure = "success") -> Interval | None:
    """Mean over the group's tasks of ours - baseline, paired by training seed and start; None without a pair."""
    pairs = [
        (scores(ours[seed], group, measure), scores(baseline[seed], group, measure))
        for seed in shared_seeds(ours, baseline)
    ]
    pairs = [pair for pair in pairs if pair[0]]
    return paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else None


def long_minus_short(ours: Runs, baseline: Runs) -> Interval | None:
    """How much larger ours - baseline is on the long tasks than on the short ones; None without both kinds.

    The mean over all T tasks of scores weighted T / (number of long tasks), and minus T / (number of short ones).
    """
    pairs = []
    for seed in shared_seeds(ours, baseline):
        tasks = ours[seed].tasks
        longs = sum(task.long_horizon for task in tasks.values())
        if 0 < longs < len(tasks):
            weight = {
                name: len(tasks) / longs if task.long_horizon else -len(tasks) / (len(tasks) - longs)
                for name, task in tasks.items()
            }
            pairs.append([_weighted(scores(record[seed]), weight) for record in (ours, baseline)])
    return paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else None


def _weighted(scored: Mapping[str, Sequence[float]], weight: Mapping[str, float]) -> dict[str, list[float]]:
    return {task: [weight[task] * value for value in values] for task, values in scored.items()}


def cycle_time_s(runs: Runs) -> Interval | None:
    """Seconds of the successful episodes of the long tasks, each episode weighing the same; None without any."""
    found = [
        {"long": seconds}
        for record in runs.values()
        if (seconds := [value for value in _success_seconds(record).values() if value is not None])
    ]
    return mean_over_tasks(found) if found else None


def time_saved_s(ours: Runs, baseline: Runs) -> Interval | None:
    """Seconds by which ours is shorter on the starts of long tasks where both succeed; None without such a start."""
    pairs: list[tuple[dict[str, list[float]], dict[str, list[float]]]] = []
    for seed in shared_seeds(ours, baseline):
        mine, theirs = _success_seconds(ours[seed]), _success_seconds(baseline[seed])
        both = [(first, second) for start, first in mine.items() if first and (second := theirs.get(start))]
        if both:
            pairs.append(({"long": [second for _, second in both]}, {"long": [first for first, _ in both]}))
    return paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else None


def _success_seconds(record: CellRecord) -> dict[tuple[str, int], float | None]:
    """(long task, index) -> seconds to success, None where it failed."""
    return {
        (name, index): steps / record.control_hz if success else None
        for name, task in record.tasks.items()
        if task.long_horizon
        for index, (success, steps) in enumerate(zip(task.successes, task.steps, strict=True))
    }
