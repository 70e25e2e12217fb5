"""Verdicts of claims from scores that are known."""

import numpy as np
import pytest

from lwd.evaluation.experiment import scores
from lwd.evaluation.experiment.claims import Claim, all_claims
from lwd.evaluation.experiment.scores import Results
from lwd.evaluation.statistics import Interval

from .constructed import SETTING, ladder, record


def claims_of(records) -> dict[str, Claim]:
    return {claim.name: claim for claim in all_claims(Results(SETTING, records))}


def test_verdicts_follow_the_intervals() -> None:
    claims = claims_of(ladder())
    assert claims["offline > SFT"].verdict == "holds"
    assert claims["online > offline"].verdict == "holds"
    assert claims["online > offline"].effect.mean == pytest.approx(0.25)
    assert claims["LWD > RECAP"].verdict == "does not hold"
    assert claims["LWD > RECAP"].effect.mean == pytest.approx(-0.1)
    # Better on long tasks by .05, worse on short ones by .05.
    assert claims["LWD > HG-DAgger"].verdict == "undecided here"
    assert claims["DIVL > expectile, offline"].verdict == "not run yet"
    assert claims["online > offline"].episodes == 3 * 8 * 20


def test_the_gain_on_long_tasks_is_compared_with_the_gain_on_short_ones() -> None:
    claims = claims_of(ladder())
    # (.9 - .4) - (.8 - .4)
    assert claims["most on long tasks"].effect.mean == pytest.approx(0.1)
    everywhere_the_same = [
        record("sft", "sft", 0, short=0.2, long=0.4),
        record("lwd", "online", 0, short=0.5, long=0.7),
    ]
    assert claims_of(everywhere_the_same)["most on long tasks"].effect.mean == pytest.approx(0.0, abs=1e-12)


def test_cycle_time_counts_the_starts_where_both_succeed() -> None:
    claim = claims_of(ladder())["shorter cycles"]
    # 110, 120 and 130 against 100 steps at 20 Hz.
    assert claim.effect.mean == pytest.approx(1.0)
    assert claim.verdict == "holds"
    assert "+1.00 s" in claim.sentence
    never = [record("sft", "sft", 0, long=0.0), record("lwd", "online", 0)]
    assert claims_of(never)["shorter cycles"].verdict == "not run yet"


def test_cycle_time_pairs_by_start() -> None:
    """Two starts, one of which SFT fails: only the other counts."""
    sft, online = record("sft", "sft", 0, long=0.05, steps=200), record("lwd", "online", 0, long=0.1, steps=100)
    assert scores.time_saved_s({0: online}, {0: sft}).mean == pytest.approx(5.0)


def test_table_2_claims_are_per_kind_of_task() -> None:
    records = [
        *(record("lwd", "offline", seed, short=0.9, long=0.5) for seed in range(3)),
        *(record("expectile", "offline", seed, short=0.5, long=0.9) for seed in range(3)),
    ]
    claims = claims_of(records)
    assert claims["DIVL > expectile, offline, short tasks"].verdict == "holds"
    assert claims["DIVL > expectile, offline, long tasks"].verdict == "does not hold"
    assert claims["DIVL > expectile, offline"].effect.mean == pytest.approx(0.0, abs=1e-12)


def test_only_shared_seeds_are_paired_and_one_seed_is_called_so() -> None:
    records = [record("lwd", "offline", 0, short=0.9, long=0.9), *(record("sft", "sft", seed) for seed in (0, 1))]
    claim = claims_of(records)["offline > SFT"]
    assert claim.seeds == (0,)
    assert "one training seed" in claim.sentence


def test_a_failed_cell_is_no_side_of_a_comparison() -> None:
    records = [record("sft", "sft", 0), record("lwd", "offline", 0, error="diverged")]
    assert claims_of(records)["offline > SFT"].verdict == "not run yet"


def test_fleet_sizes_are_told_apart() -> None:
    records = [
        *(record("lwd", "online", seed, short=0.9, long=0.9) for seed in range(3)),
        *(record("lwd", "online", seed, short=0.5, long=0.5, robots=1, env_steps=9_375) for seed in range(3)),
        *(record("lwd", "online", seed, short=0.9, long=0.9, robots=1, env_steps=150_000) for seed in range(3)),
    ]
    claims = claims_of(records)
    assert claims["16 robots > 1, equal wall clock"].verdict == "holds"
    assert claims["16 robots > 1, equal wall clock"].effect.mean == pytest.approx(0.4)
    assert claims["16 robots > 1, equal robot hours"].verdict == "undecided here"


def test_pairs_that_all_differ_by_the_same_decide_nothing() -> None:
    alike = [record("sft", "sft", 0, steps=120), record("lwd", "online", 0, steps=100)]
    claim = claims_of(alike)["shorter cycles"]
    assert claim.effect.mean == pytest.approx(1.0)
    assert claim.verdict == "undecided here"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, "holds"), (-0.2, -0.01, "does not hold"), (-0.1, 0.1, "undecided here"), (0.0, 0.1, "undecided here")],
)
def test_verdict_of_an_interval(low: float, high: float, verdict: str) -> None:
    effect = Interval(mean=(low + high) / 2, low=low, high=high)
    claim = Claim(name="", of_paper=True, text="It is so", effect=effect, seeds=(0, 1), episodes=1)
    assert claim.verdict == verdict
    assert f"**{verdict}**" in claim.sentence


def test_the_interval_of_many_seeds_covers_their_spread() -> None:
    """Seeds that disagree leave a claim undecided that one of them alone would support."""
    disagreeing = [
        *(record("sft", "sft", seed) for seed in range(3)),
        *(record("lwd", "offline", seed, short=rate, long=rate) for seed, rate in enumerate((0.9, 0.5, 0.2))),
    ]
    claim = claims_of(disagreeing)["offline > SFT"]
    assert claim.verdict == "undecided here"
    assert claim.effect.mean == pytest.approx(np.mean([0.4, 0.0, -0.3]))
    assert claims_of(disagreeing[:1] + disagreeing[3:4])["offline > SFT"].verdict == "holds"
