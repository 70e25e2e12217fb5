"""`make bench-data`: the data plane's benchmarks, into docs/results/bench.json and docs/results/data_plane.md.

    python -m benchmarks.data_plane [--quick] [--without-peers] [--results DIRECTORY]

About 12 minutes on an idle machine (the peers' environments, once, some minutes more). `--quick` walks the same road,
without S3, in a quarter of a minute and says nothing about speed; it writes only where `--results` says.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.commit_latency import SIZES, CommitLatency, commit_entries, measure_commits
from benchmarks.data_plane_page import page
from benchmarks.fleet_latency import (
    FLEETS,
    PERIOD_S,
    FleetLatency,
    fan_out_entries,
    latency_entries,
    measure_fleet_latency,
    measure_pointer_fan_out,
)
from benchmarks.fleet_run import FloatVector
from benchmarks.knee import RATES, ROBOTS, KneeStep, knee_entries, measure_knee
from benchmarks.sampling import SamplingResult, SamplingSize, measure_sampling, sampling_entries
from tests.seaweedfs import SeaweedServer

from lwd.data import durable
from lwd.data.store import StoreConfig
from lwd.recipes.bench_result import BenchEntry, print_entries, write_entries

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured."""

    sizes: tuple[int, ...] = SIZES
    commits: int = 250
    fleets: tuple[int, ...] = FLEETS
    seconds: float = 45.0
    burst_seconds: float = 30.0
    period_s: float = PERIOD_S
    publish_every_s: float = 5.0
    warm_up_s: float = 4.0
    connections: int = 1024
    pointers: int = 20
    stores: tuple[str, ...] = ("directory", "s3")
    """Where commits and the knee are measured."""
    knee_robots: int = ROBOTS
    knee_rates: tuple[float, ...] = RATES
    knee_seconds: float = 10.0
    sampling: SamplingSize = field(default_factory=SamplingSize)
    with_peers: bool = True


QUICK = Extent(
    sizes=(3, 6),
    commits=3,
    fleets=(4,),
    seconds=1.0,
    burst_seconds=0.5,
    period_s=1.0,
    publish_every_s=0.5,
    warm_up_s=0.5,
    connections=8,
    pointers=2,
    stores=("directory",),
    knee_robots=4,
    knee_rates=(4.0,),
    knee_seconds=1.0,
    sampling=SamplingSize(rows=2_000, image_rows=1_000, seconds=0.05),
    with_peers=False,
)
"""For the test: everything runs, nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All results of one run."""

    commits: dict[str, list[CommitLatency]]
    """By store: "directory", "s3"."""
    fleets: list[FleetLatency]
    connections: int
    heard_s: FloatVector
    knees: dict[str, list[KneeStep]]
    sampling: SamplingResult
    took_s: float


def measure(extent: Extent, say: Callable[[str], None] = print) -> Measured:
    """Run everything, one after the other."""
    begun_s = time.monotonic()
    commits: dict[str, list[CommitLatency]] = {}
    knees: dict[str, list[KneeStep]] = {}
    say("sampling")
    sampling = measure_sampling(extent.sampling, with_peers=extent.with_peers)
    fleets = []
    for robots in extent.fleets:
        say(f"a fleet of {robots}")
        fleets.append(
            measure_fleet_latency(
                robots,
                seconds=extent.seconds,
                burst_seconds=extent.burst_seconds,
                warm_up_s=extent.warm_up_s,
                publish_every_s=extent.publish_every_s,
                period_s=extent.period_s,
            )
        )
    say("the policy pointer")
    heard_s = measure_pointer_fan_out(extent.connections, pointers=extent.pointers)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lwd-bench-")))
        configs: dict[str, Callable[[str], StoreConfig]] = {}
        if "directory" in extent.stores:
            configs["directory"] = lambda name: StoreConfig(url=str(directory / name))
        if "s3" in extent.stores:
            seaweed = SeaweedServer(directory / "seaweed")
            seaweed.start()
            stack.callback(seaweed.close)
            configs["s3"] = seaweed.store_config
        for store, config in configs.items():
            say(f"commits, {store}")
            stores = [config(f"commits-{size}") for size in extent.sizes]
            commits[store] = measure_commits(stores, extent.sizes, commits=extent.commits)
        for store, config in configs.items():
            say(f"the knee, {store}")
            knees[store] = measure_knee(
                config("knee"), seconds=extent.knee_seconds, robots=extent.knee_robots, rates=extent.knee_rates
            )
    return Measured(
        commits=commits,
        fleets=fleets,
        connections=extent.connections,
        heard_s=heard_s,
        knees=knees,
        sampling=sampling,
        took_s=time.monotonic() - begun_s,
    )


def entries_of(measured: Measured) -> dict[str, BenchEntry]:
    """Return what goes into bench.json; every name begins with `data/`."""
    entries: dict[str, BenchEntry] = {}
    for store, results in measured.commits.items():
        entries |= commit_entries(store, results)
    for fleet in measured.fleets:
        entries |= latency_entries(fleet)
    entries |= fan_out_entries(measured.heard_s, measured.connections)
    for store, steps in measured.knees.items():
        entries |= knee_entries(store, steps)
    return entries | sampling_entries(measured.sampling)


def run(extent: Extent, results: Path) -> dict[str, BenchEntry]:
    """Measure, and write bench.json and data_plane.md."""
    measured = measure(extent)
    entries = entries_of(measured)
    print_entries(entries)
    write_entries(results / "bench.json", entries)
    durable.replace(results / "data_plane.md", page(measured).encode())
    print(f"{measured.took_s / 60:.1f} min")
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks of the data plane.")
    parser.add_argument("--quick", action="store_true", help="walk the whole road at tiny size; no measurement")
    parser.add_argument("--without-peers", action="store_true", help="leave TorchRL and LeRobot out")
    parser.add_argument("--results", type=Path, default=None, help="where to write; docs/results if not given")
    options = parser.parse_args()
    if options.quick and options.results is None:
        parser.error("--quick measures nothing: say with --results where its pages may go")
    extent = QUICK if options.quick else Extent(with_peers=not options.without_peers)
    run(extent, options.results or RESULTS)


if __name__ == "__main__":
    main()
