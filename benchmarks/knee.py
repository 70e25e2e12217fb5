"""The load that one coordinator carries: episodes per second, raised until latency or throughput gives way."""

from dataclasses import dataclass

from benchmarks.fleet_latency import PERIOD_S
from benchmarks.fleet_run import PhaseResult, fleet, quantile

from lwd.data.store import StoreConfig
from lwd.recipes.bench_result import BenchEntry

RATES = (10.0, 20.0, 40.0, 60.0, 80.0, 120.0, 160.0, 240.0, 320.0)
ROBOTS = 256
LATENCY_LIMIT_S = 5.0
KEPT_UP = 0.9
"""Share of the offered rate at which episodes become sampleable that still counts as keeping up."""


@dataclass(frozen=True, kw_only=True)
class KneeStep:
    """One offered load."""

    offered_per_s: float
    result: PhaseResult

    @property
    def p99_s(self) -> float:
        return quantile(self.result.episode_s, 0.99)

    @property
    def carried(self) -> bool:
        """Whether every episode arrived, in time, at the offered rate."""
        enough = self.result.drained_per_s >= KEPT_UP * self.result.produced / self.result.phase.duration_s
        return enough and self.result.lost == 0 and self.p99_s <= LATENCY_LIMIT_S


def measure_knee(
    store: StoreConfig | None, *, seconds: float, robots: int = ROBOTS, rates: tuple[float, ...] = RATES
) -> list[KneeStep]:
    """Raise the load until it is not carried; policies are published meanwhile as ever."""
    steps: list[KneeStep] = []
    with fleet(robots=robots, store=store) as run:
        run.phase("warm-up", period_s=4 * seconds, duration_s=seconds / 2)
        for rate in rates:
            result = run.phase(f"{rate:g}/s", period_s=robots / rate, duration_s=seconds, patience_s=30.0)
            steps.append(KneeStep(offered_per_s=rate, result=result))
            if not steps[-1].carried:
                break
    return steps


def knee_entries(store: str, steps: list[KneeStep]) -> dict[str, BenchEntry]:
    """Return what goes into the results file: the highest load that was carried."""
    carried = [step for step in steps if step.carried]
    value = carried[-1].result.drained_per_s if carried else 0.0
    needed = 1024 / PERIOD_S
    return {
        f"data/knee/{store}": BenchEntry(
            value=value,
            unit="episodes/s",
            baseline=f"1,024 robots at one episode per {PERIOD_S:g} s: {needed:.2f} episodes/s",
            ratio=value / needed,
        )
    }
