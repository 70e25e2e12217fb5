"""The claims of the paper, and ours, put to the records: effect, interval, and what may be said."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lwd.evaluation.experiment import scores
from lwd.evaluation.experiment.scores import Group, Results, Runs
from lwd.evaluation.statistics import Interval

Verdict = Literal["holds", "does not hold", "undecided here", "not run yet"]
EXTRACTORS = ("lwd_paper", "qam", "best_of_n", "fql")
"""Methods that differ from LWD in how the policy is drawn from the critic, or in the critic alone."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim: that an effect is positive."""

    name: str
    of_paper: bool
    """Whether the paper makes it (else it is a comparison that users would ask for)."""
    text: str
    """What is claimed, as a sentence without its full stop."""
    effect: Interval | None
    """None: a side of the comparison has not been run."""
    seeds: tuple[int, ...]
    episodes: int
    """Evaluation episodes on each side."""
    unit: Literal["success", "s"] = "success"

    @property
    def verdict(self) -> Verdict:
        """From the 95 % interval: all above zero, all below, or neither.

        Where all pairs differ by the same, the bootstrap has no spread: so few episodes decide nothing.
        """
        if self.effect is None:
            return "not run yet"
        if self.effect.low == self.effect.high:
            return "undecided here"
        if self.effect.low > 0:
            return "holds"
        return "does not hold" if self.effect.high < 0 else "undecided here"

    @property
    def sentence(self) -> str:
        """The claim with its verdict, in words that claim no more than the interval allows."""
        if self.effect is None:
            return f"{self.text}: not run yet."
        spread = f"{self.number(self.effect.mean)} ({self.number(self.effect.low)} to {self.number(self.effect.high)})"
        seeds = "one training seed, so evaluation noise alone" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"{self.text}: **{self.verdict}**. {spread}, {self.episodes} episodes a side, {seeds}."

    def number(self, value: float) -> str:
        """A signed effect in its unit."""
        return f"{value:+.2f} s" if self.unit == "s" else f"{value:+.3f}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def all_claims(results: Results) -> list[Claim]:
    """Every claim, also those that no record supports yet."""
    return [*_ladder(results), *_baselines(results), *_values(results), *_extractors(results), *_fleet(results)]


def _ladder(results: Results) -> Iterator[Claim]:
    sft, offline, online = results.runs("sft", "sft"), results.runs("lwd", "offline"), results.runs("lwd", "online")
    yield _claim("offline > SFT", "LWD offline succeeds more often than SFT", offline, sft)
    yield _claim("online > offline", "LWD online succeeds more often than LWD offline", online, offline)
    yield _claim("online > SFT", "LWD online succeeds more often than SFT", online, sft)
    yield _claim(
        "most on long tasks",
        "LWD online gains more over SFT on long tasks than on short ones",
        online,
        sft,
        effect=scores.long_minus_short,
    )
    yield _claim(
        "shorter cycles",
        "LWD online is faster than SFT on the starts of long tasks where both succeed",
        online,
        sft,
        effect=scores.time_saved_s,
        unit="s",
    )


def _baselines(results: Results) -> Iterator[Claim]:
    online = results.runs("lwd", "online")
    for method in ("recap", "hg_dagger"):
        words = results.setting.methods[method]
        yield _claim(
            f"LWD > {words}",
            f"LWD online succeeds more often than {words} with as many robot hours",
            online,
            results.runs(method, "online"),
        )


def _values(results: Results) -> Iterator[Claim]:
    for stage in ("offline", "online"):
        divl, expectile = results.runs("lwd", stage), results.runs("expectile", stage)
        text = f"DIVL succeeds more often than expectile regression {stage}"
        yield _claim(f"DIVL > expectile, {stage}", text, divl, expectile)
        for group in ("short", "long"):
            yield _claim(
                f"DIVL > expectile, {stage}, {group} tasks", f"{text}, on {group} tasks", divl, expectile, group=group
            )
    yield _claim(
        "adaptive > constant level",
        "Adaptive quantile levels succeed more often than a constant one at their mean, offline",
        results.runs("lwd", "offline"),
        results.runs("constant_level", "offline"),
    )


def _extractors(results: Results) -> Iterator[Claim]:
    for method in EXTRACTORS:
        words = results.setting.methods[method]
        for stage in ("offline", "online"):
            yield _claim(
                f"LWD > {words}, {stage}",
                f"LWD {stage} succeeds more often than {words} {stage}",
                results.runs("lwd", stage),
                results.runs(method, stage),
                of_paper=False,
            )


def _fleet(results: Results) -> Iterator[Claim]:
    setting = results.setting
    least, most = min(setting.fleet_sizes), max(setting.fleet_sizes)
    whole = results.runs("lwd", "online", robots=most)
    for name, steps in (
        ("wall clock", setting.steps_at_equal_wall_clock(least)),
        ("robot hours", setting.env_steps),
    ):
        yield _claim(
            f"{most} robots > {least}, equal {name}",
            f"LWD online with {most} robots succeeds more often than with {least} at equal {name}",
            whole,
            results.runs("lwd", "online", robots=least, env_steps=steps),
            of_paper=False,
        )


def _claim(
    name: str,
    text: str,
    ours: Runs,
    baseline: Runs,
    *,
    group: Group = "all",
    effect: Callable[[Runs, Runs], Interval | None] | None = None,
    unit: Literal["success", "s"] = "success",
    of_paper: bool = True,
) -> Claim:
    seeds = tuple(scores.shared_seeds(ours, baseline))
    episodes = sum(len(values) for seed in seeds for values in scores.scores(ours[seed], group).values())
    return Claim(
        name=name,
        of_paper=of_paper,
        text=text,
        effect=effect(ours, baseline) if effect is not None else scores.difference(ours, baseline, group),
        seeds=seeds,
        episodes=episodes,
        unit=unit,
    )
