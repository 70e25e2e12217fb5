"""How long an episode takes to the learner's replay, and a policy to the robots, by the size of the fleet."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import numpy as np
from benchmarks.fleet_plan import Plan, read_lines, stop_file
from benchmarks.fleet_run import FloatVector, PhaseResult, fleet, quantile, start, wait_until_ready

from lwd.data.policies import PolicyManifest
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.learner_link import LearnerLink
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.process import stop_all
from lwd.recipes.bench_result import BenchEntry

PERIOD_S = 287.0
"""The paper's fleet: one episode per robot and so many seconds."""
BURST = 10
FLEETS = (16, 64, 256, 1024)
PAPER_EPISODE_S = {"p50": 41.0, "p99": 148.0}
PAPER_POLICY_S = {"p50": 38.0, "p99": 55.0}
LEVELS = {"p50": 0.5, "p99": 0.99}


@dataclass(frozen=True, kw_only=True)
class FleetLatency:
    """One fleet at the paper's rate, and then ten times as busy."""

    robots: int
    hosts: int
    paper_rate: PhaseResult
    burst: PhaseResult

    @property
    def phases(self) -> dict[str, PhaseResult]:
        return {"paper-rate": self.paper_rate, "burst": self.burst}


def measure_fleet_latency(
    robots: int,
    *,
    seconds: float,
    burst_seconds: float,
    warm_up_s: float,
    publish_every_s: float,
    period_s: float = PERIOD_S,
) -> FleetLatency:
    """Run one fleet on a directory store, with policies published as it goes.

    In the warm-up every host sends two episodes or so: the first ones meet imports and new connections.
    """
    with fleet(robots=robots, publish_every_s=publish_every_s) as run:
        run.phase("warm-up", period_s=8 * warm_up_s, duration_s=warm_up_s)
        result = FleetLatency(
            robots=robots,
            hosts=run.plan.hosts,
            paper_rate=run.phase("paper-rate", period_s=period_s, duration_s=seconds),
            burst=run.phase("burst", period_s=period_s / BURST, duration_s=burst_seconds),
        )
    for name, phase in result.phases.items():
        if phase.lost or phase.duplicates:
            raise RuntimeError(
                f"{robots} robots, {name}: of {phase.produced} episodes {phase.lost} never became sampleable and "
                f"{phase.duplicates} did so twice"
            )
    return result


def measure_pointer_fan_out(connections: int, *, pointers: int, pause_s: float = 0.5) -> FloatVector:
    """Return how long each of the connections took to hear of each policy, in seconds."""
    processes = min(4, connections)
    listeners = connections // processes
    children: dict[str, Popen[bytes]] = {}
    published_s: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="lwd-bench-", ignore_cleanup_errors=True) as directory:
        run = Path(directory)
        plan = Plan(run=directory, robots=1, store_url=str(run / "store"), listeners=listeners)
        plan.save()
        with NatsServer(run / "nats") as server:
            try:
                for process in range(processes):
                    children[f"listeners-{process}"] = start(plan, "listeners", process)
                wait_until_ready(plan, children, list(children))
                link = LearnerLink(lambda: BusConfig(urls=(server.url,)))
                for version in range(pointers):
                    published_s[version] = time.time()
                    link.announce_policy(_manifest(version, published_s[version]))
                    time.sleep(pause_s)
                link.close()
            finally:
                stop_file(run).touch()
                stop_all(list(children.values()))
        heard = [line for process in children for line in read_lines(run, process)]
    if len(heard) != processes * listeners * pointers:
        raise RuntimeError(f"{len(heard)} of {processes * listeners * pointers} pointers were heard: is the bus slow?")
    return np.array([line["heard_s"] - published_s[line["version"]] for line in heard])  # type: ignore[operator, index]


def _manifest(version: int, published_at_s: float) -> PolicyManifest:
    """A pointer's worth of a policy: nobody downloads it."""
    return PolicyManifest(
        version=version,
        key=f"policies/{version:012d}.safetensors",
        sha256=f"{version:064x}",
        bytes=1,
        update=0,
        snapshot=0,
        published_at_s=published_at_s,
    )


def latency_entries(result: FleetLatency) -> dict[str, BenchEntry]:
    """Return what goes into the results file."""
    entries = {}
    for name, phase in result.phases.items():
        for level, share in LEVELS.items():
            for what, latencies_s, paper_s in (
                ("episode", phase.episode_s, PAPER_EPISODE_S[level]),
                ("policy", phase.policy_s, PAPER_POLICY_S[level]),
            ):
                if not len(latencies_s):
                    continue
                value = quantile(latencies_s, share)
                entries[f"data/fleet/{result.robots}/{name}/{what}-{level}"] = BenchEntry(
                    value=value,
                    unit="s",
                    baseline=f"the paper's {paper_s:g} s (another network and fleet)",
                    ratio=value / paper_s,
                )
    return entries


def fan_out_entries(heard_s: FloatVector, connections: int) -> dict[str, BenchEntry]:
    """Return what goes into the results file."""
    return {
        f"data/pointer/{connections}/{level}": BenchEntry(
            value=quantile(heard_s, share),
            unit="s",
            baseline=f"the paper's {PAPER_POLICY_S[level]:g} s until a policy is loaded",
            ratio=quantile(heard_s, share) / PAPER_POLICY_S[level],
        )
        for level, share in LEVELS.items()
    }
