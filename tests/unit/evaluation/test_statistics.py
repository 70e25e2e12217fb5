import numpy as np
import pytest

from lwd.errors import ConfigError, ShapeError
from lwd.evaluation.statistics import mean_over_tasks, paired_difference, wilson_interval


def _scores(successes: int, episodes: int) -> list[float]:
    return [1.0] * successes + [0.0] * (episodes - successes)


def test_wilson_agrees_with_the_closed_form() -> None:
    # p = 0.8, n = 10, z = 1.959964: centre (0.8 + z^2/20) / (1 + z^2/10), by hand 0.490162 and 0.943318.
    interval = wilson_interval(8, 10)
    assert interval.mean == 0.8
    assert interval.low == pytest.approx(0.490162, abs=1e-6)
    assert interval.high == pytest.approx(0.943318, abs=1e-6)


def test_wilson_is_symmetric_and_stays_within_the_unit_interval() -> None:
    for successes in range(11):
        interval, mirror = wilson_interval(successes, 10), wilson_interval(10 - successes, 10)
        assert interval.low == pytest.approx(1 - mirror.high)
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert wilson_interval(10, 10).low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)


def test_wilson_without_trials_says_nothing() -> None:
    interval = wilson_interval(0, 0)
    assert np.isnan(interval.mean)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3)])
def test_wilson_names_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ConfigError, match=f"successes={successes}"):
        wilson_interval(successes, trials)


def test_bootstrap_matches_the_stratified_standard_error() -> None:
    runs = [{"a": _scores(40, 50), "b": _scores(25, 50), "c": _scores(5, 50)}]
    interval = mean_over_tasks(runs)
    error = np.sqrt(sum(p * (1 - p) / 50 for p in (0.8, 0.5, 0.1))) / 3
    assert interval.mean == pytest.approx((0.8 + 0.5 + 0.1) / 3)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_tasks_are_strata_so_their_spread_adds_nothing() -> None:
    apart = mean_over_tasks([{"a": _scores(50, 50), "b": _scores(0, 50)}])
    mixed = mean_over_tasks([{"a": _scores(25, 50), "b": _scores(25, 50)}])
    assert (apart.low, apart.high) == (0.5, 0.5)
    assert mixed.high - mixed.low > 0.15


def test_tasks_weigh_the_same_whatever_their_number_of_episodes() -> None:
    assert mean_over_tasks([{"a": _scores(10, 10), "b": _scores(0, 90)}]).mean == 0.5


def test_training_seeds_that_disagree_widen_the_interval() -> None:
    agree = mean_over_tasks([{"a": _scores(25, 50)}] * 3)
    disagree = mean_over_tasks([{"a": _scores(k, 50)} for k in (5, 25, 45)])
    assert agree.mean == disagree.mean == 0.5
    # The variance of the mean of three drawn runs, each .1/.5/.9: .32^2 / 3, far above the episodes' own.
    error = np.sqrt(0.32**2 / 3 + (0.09 + 0.25 + 0.09) / 3 / 150)
    assert disagree.high - disagree.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert agree.high - agree.low < 0.5 * (disagree.high - disagree.low)


def test_all_successes_are_not_certainty() -> None:
    interval = mean_over_tasks([{"a": _scores(25, 25), "b": _scores(25, 25)}])
    assert interval.mean == 1.0
    assert interval.low == pytest.approx(wilson_interval(50, 50).low)


def test_pairing_removes_the_difficulty_of_the_starts() -> None:
    baseline = {"a": _scores(20, 50)}
    ours = {"a": _scores(25, 50)}  # the same 20 starts, and five more
    paired = paired_difference([ours], [baseline])
    shuffled = {"a": list(reversed(ours["a"]))}
    unpaired = paired_difference([shuffled], [baseline])
    assert paired.mean == pytest.approx(0.1)
    assert unpaired.mean == pytest.approx(0.1)
    assert paired.excludes_zero
    assert not unpaired.excludes_zero
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * np.sqrt(0.1 * 0.9 / 50), rel=0.1)


def test_the_same_scores_give_the_same_interval() -> None:
    runs = [{"b": _scores(3, 9), "a": _scores(7, 9)}]
    assert mean_over_tasks(runs) == mean_over_tasks([dict(reversed(runs[0].items()))])


def test_layouts_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ShapeError, match="no run"):
        mean_over_tasks([])
    with pytest.raises(ShapeError, match="tasks differ"):
        mean_over_tasks([{"a": [1.0]}, {"b": [1.0]}])
    with pytest.raises(ShapeError, match="'b' has no episode"):
        mean_over_tasks([{"a": [1.0], "b": []}])
    with pytest.raises(ShapeError, match="task 'a': 2 episodes against 1"):
        paired_difference([{"a": [1.0, 0.0]}], [{"a": [1.0]}])
    with pytest.raises(ShapeError, match="2 runs of ours against 1"):
        paired_difference([{"a": [1.0]}] * 2, [{"a": [1.0]}])
