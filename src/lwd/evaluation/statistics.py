"""Intervals for success rates: Wilson per task, a hierarchical bootstrap for means and differences.

A *run* here is one training seed: a mapping from task to the scores of its evaluation episodes, in the order
of the evaluation seeds. Tasks are strata: every resample holds every task, so the mean over tasks stays a
mean over the same tasks. Everything is deterministic: the same scores give the same interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lwd.errors import ConfigError, ShapeError

RESAMPLES = 4_000
_BOOTSTRAP_SEED = 20_260_501

TaskScores = Mapping[str, Sequence[float]]
_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Return a proportion with its Wilson score interval.

    Args:
        successes: in [0, trials].
        trials: 0 gives the uninformative interval [0, 1] around NaN.
        confidence: in (0, 1).
    Raises:
        ConfigError: if the arguments are out of range.
    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= trials:
        raise ConfigError(f"successes={successes} must lie in [0, trials={trials}]; count the episodes again")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} must lie in (0, 1); 0.95 is usual")
    if trials == 0:
        return Interval(mean=float("nan"), low=0.0, high=1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * float(np.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))) / (1 + z * z / trials)
    # At 0 and at `trials` one end equals the proportion exactly; rounding may put it 1e-17 off.
    return Interval(mean=p, low=min(p, max(0.0, centre - half)), high=max(p, min(1.0, centre + half)))


def mean_over_tasks(runs: Sequence[TaskScores], *, confidence: float = 0.95) -> Interval:
    """Return the mean over tasks (each task weighs the same) with its hierarchical bootstrap interval.

    Resampled: the runs (training seeds), then within each drawn run the episodes of every task. With one run
    only the episodes are resampled, so the interval says nothing about other training seeds.

    A bootstrap has no spread where all episodes of all tasks score the same; for scores of 0 or 1 the Wilson
    interval of the pooled episodes is returned there, since "25 of 25" is not certainty.

    Args:
        runs: at least one; all with the same tasks, none empty.
    Raises:
        ShapeError: if there is no run, tasks differ between runs or a task has no episode.
    """
    arrays = [_as_arrays(run) for run in runs]
    tasks = _same_tasks(arrays)
    estimate = float(np.mean([[run[task].mean() for task in tasks] for run in arrays]))
    pooled = np.concatenate([run[task] for run in arrays for task in tasks])
    if np.all(pooled == pooled[0]) and pooled[0] in (0.0, 1.0):
        wilson = wilson_interval(int(pooled.sum()), pooled.size, confidence=confidence)
        return Interval(mean=estimate, low=wilson.low, high=wilson.high)
    return _percentile(estimate, _resampled_means(arrays, tasks), confidence)


def paired_difference(
    ours: Sequence[TaskScores], baseline: Sequence[TaskScores], *, confidence: float = 0.95
) -> Interval:
    """Return the mean over tasks of (ours - baseline) with its interval, episodes paired by evaluation seed.

    Args:
        ours: per training seed, task -> scores, in the order of the evaluation seeds.
        baseline: the same layout; scores at the same place come from the same evaluation seed.
    Raises:
        ShapeError: if the layouts differ.
    """
    if len(ours) != len(baseline):
        raise ShapeError(f"{len(ours)} runs of ours against {len(baseline)} of the baseline; pair them one to one")
    differences: list[dict[str, _Doubles]] = []
    for run, other in zip(map(_as_arrays, ours), map(_as_arrays, baseline), strict=True):
        _same_tasks([run, other])
        for task in run:
            if run[task].shape != other[task].shape:
                raise ShapeError(
                    f"task {task!r}: {run[task].size} episodes against {other[task].size}; "
                    "evaluate both on the same seeds"
                )
        differences.append({task: run[task] - other[task] for task in run})
    tasks = _same_tasks(differences)
    estimate = float(np.mean([[run[task].mean() for task in tasks] for run in differences]))
    return _percentile(estimate, _resampled_means(differences, tasks), confidence)


def _as_arrays(run: TaskScores) -> dict[str, _Doubles]:
    return {task: np.asarray(scores, dtype=np.float64) for task, scores in run.items()}


def _same_tasks(runs: Sequence[Mapping[str, _Doubles]]) -> list[str]:
    if not runs or not runs[0]:
        raise ShapeError("no run with a task was given; evaluate at least one task")
    tasks = sorted(runs[0])
    for run in runs:
        if sorted(run) != tasks:
            raise ShapeError(f"tasks differ between runs: {tasks} against {sorted(run)}; evaluate the same tasks")
        for task in tasks:
            if run[task].size == 0:
                raise ShapeError(f"task {task!r} has no episode; evaluate it or leave it out of every run")
    return tasks


def _resampled_means(runs: Sequence[Mapping[str, _Doubles]], tasks: Sequence[str]) -> _Doubles:
    """(RESAMPLES,) means over tasks, runs and episodes drawn with replacement."""
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    total = np.zeros(RESAMPLES)
    for _ in runs:  # one slot per run; each slot draws a run, and fresh episodes of it
        drawn = rng.integers(len(runs), size=RESAMPLES)
        for index, run in enumerate(runs):
            chosen = np.flatnonzero(drawn == index)
            for task in tasks:
                scores = run[task]
                picks = rng.integers(scores.size, size=(chosen.size, scores.size))
                total[chosen] += scores[picks].mean(axis=1)
    return total / (len(runs) * len(tasks))


def _percentile(estimate: float, means: _Doubles, confidence: float) -> Interval:
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(mean=estimate, low=float(low), high=float(high))
