"""docs/results/data_plane.md: the data plane's numbers in tables, with what they stand beside."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commit_latency import CommitLatency
from benchmarks.fleet_latency import BURST, PAPER_EPISODE_S, PAPER_POLICY_S, PERIOD_S, FleetLatency
from benchmarks.fleet_plan import EPISODE_STEPS
from benchmarks.fleet_run import FloatVector, quantile
from benchmarks.knee import KEPT_UP, LATENCY_LIMIT_S, KneeStep
from benchmarks.sampling import BATCH, HORIZON, IMAGE_TARGET, PIXELS, STATE_TARGET, SamplingResult

if TYPE_CHECKING:
    from benchmarks.data_plane import Measured

_TARGET_P50_S, _TARGET_P99_S = 1.0, 5.0
_STORES = {"directory": "directory (fsync)", "s3": "S3 (SeaweedFS, loopback)"}


def page(measured: "Measured") -> str:
    """Return the page."""
    parts = [
        "# Data plane: measured",
        f"Written by `make bench-data` ({measured.took_s / 60:.0f} min, one run). Machine: {machine()}. "
        "Everything runs on it at once and talks over loopback: NATS (synced to disk), coordinator, learner, "
        "robot hosts, load generator, and SeaweedFS where S3 is measured. The paper's numbers come from its own fleet "
        "and network; they say what its authors had, not what our code does there.",
        "## Episode produced -> sampleable, policy published -> loaded",
        _fleet_text(measured),
        _table(
            ("robots", "hosts", "load", "episodes", "P50", "P99", "max", "policies x robots", "P50", "P99", "max"),
            (row for fleet in measured.fleets for row in _fleet_rows(fleet)),
        ),
        _verdict(measured.fleets[-1]),
        f"The policy pointer alone to {measured.connections:,} connections: "
        f"P50 {_ms(measured.heard_s, 0.5)}, P99 {_ms(measured.heard_s, 0.99)}, max {_ms(measured.heard_s, 1)} "
        "(nobody downloads; what it would be with one connection per robot).",
        "## Commit latency by the size of the log",
        "`append` is `LogWriter.commit` alone, `process` is the coordinator's whole step for one uploaded episode "
        "(poll, download, validate, commit, and every so many versions an index). The logs take turns, so that a "
        "change of the machine's speed meets all alike. It must not grow.",
    ]
    for store, results in measured.commits.items():
        header = (
            "versions",
            "append P50",
            "P99",
            "against the first",
            "process P50",
            "P99",
            "max",
            "against the first",
        )
        parts += [
            f"**{_STORES[store]}**, {len(results[0].append_s)} commits each",
            _table(header, _commit_rows(results)),
        ]
    parts += ["## The load that one coordinator carries", _knee_text(measured)]
    for store, steps in measured.knees.items():
        knee_header = ("offered", "episodes", "sampleable per second", "P50", "P99", "episodes per version", "carried")
        parts += [f"**{_STORES[store]}**", _table(knee_header, map(_knee_row, steps))]
    parts += ["## Sampling", _sampling_text(measured.sampling)]
    parts.append(_table(("what", "transitions/s", "of ours"), _sampling_rows(measured.sampling)))
    parts += [f"{name} was left out: {reason}" for name, reason in measured.sampling.missing.items()]
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """Return the machine in words."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB, {platform.system()}, no GPU used"


def _fleet_text(measured: "Measured") -> str:
    first = measured.fleets[0].paper_rate.phase
    return (
        f"A simulated robot hands over a recorded episode of {EPISODE_STEPS:,} steps (about 80 KB) at its times: one "
        f"per {first.period_s:g} s (the paper's rate is {PERIOD_S:g} s), and {BURST} times as often in the "
        "burst, out of "
        "step with each other at random. Robots share hosts (16 per host at most) and hosts share processes, but each "
        "host has a whole network side of its own: spool, uploads, bus connection, log and policy followers. "
        "*Produced* "
        "is the moment at which the schedule says the episode ends, so a generator that is late makes latency, "
        "not luck. "
        "*Sampleable* is when the learner's process has drawn a batch from a replay that holds it; the learner "
        "looks as soon as a snapshot is announced (one that trains looks between two updates). *Published* is "
        "the moment "
        "before the upload; *loaded* is when a robot can begin its next episode with it. Where episodes are "
        "few, P99 is "
        "simply the slowest one. A warm-up of a few seconds goes before."
    )


def _fleet_rows(fleet: FleetLatency) -> Iterable[Sequence[str]]:
    for name, phase in fleet.phases.items():
        yield (
            f"{fleet.robots:,}",
            str(fleet.hosts),
            f"{name}, {fleet.robots / phase.phase.period_s:.2g}/s",
            str(phase.produced),
            *_three(phase.episode_s),
            f"{phase.policies} x {fleet.robots:,}",
            *_three(phase.policy_s),
        )
    if fleet.robots == 1024:
        paper = [f"{PAPER_EPISODE_S['p50']:g} s", f"{PAPER_EPISODE_S['p99']:g} s", ""]
        policy = [f"{PAPER_POLICY_S['p50']:g} s", f"{PAPER_POLICY_S['p99']:g} s", ""]
        yield ("*the paper*", "", "its own fleet", "", *paper, "", *policy)


def _verdict(fleet: FleetLatency) -> str:
    met = all(
        len(latencies_s)
        and quantile(latencies_s, 0.5) <= _TARGET_P50_S
        and quantile(latencies_s, 0.99) <= _TARGET_P99_S
        for phase in fleet.phases.values()
        for latencies_s in (phase.episode_s, phase.policy_s)
    )
    return (
        f"Targets at {fleet.robots:,} robots: P50 <= {_TARGET_P50_S:g} s and P99 <= {_TARGET_P99_S:g} s, episodes and "
        f"policies, at both loads: **{'met' if met else 'NOT met'}**."
    )


def _commit_rows(results: Sequence[CommitLatency]) -> Iterable[Sequence[str]]:
    for result in results:
        append = [_ratio(result.append_s, results[0].append_s, q) for q in (0.5, 0.99)]
        process = [_ratio(result.process_s, results[0].process_s, q) for q in (0.5, 0.99)]
        yield (
            f"{result.versions:,}",
            _ms(result.append_s, 0.5),
            _ms(result.append_s, 0.99),
            " / ".join(append),
            _ms(result.process_s, 0.5),
            _ms(result.process_s, 0.99),
            _ms(result.process_s, 1),
            " / ".join(process),
        )


def _knee_text(measured: "Measured") -> str:
    phase = next(iter(measured.knees.values()))[0].result.phase
    return (
        f"The same fleet's processes, {phase.duration_s:g} s at each rate, raised until P99 passes "
        f"{LATENCY_LIMIT_S:g} s or "
        f"episodes become sampleable at less than {KEPT_UP:.0%} of the offered rate (the last one may come "
        "after the load "
        "has ended). All parts share the machine's cores, the load generator's and the learner's work "
        "included: this is the "
        "knee of a whole fleet on this machine, and the coordinator alone carries more."
    )


def _knee_row(step: KneeStep) -> Sequence[str]:
    result = step.result
    return (
        f"{step.offered_per_s:g}/s",
        str(result.produced),
        f"{result.drained_per_s:.1f}",
        _ms(result.episode_s, 0.5),
        _ms(result.episode_s, 0.99),
        f"{result.produced / max(result.snapshots, 1):.1f}",
        "yes" if step.carried else "no",
    )


def _sampling_text(result: SamplingResult) -> str:
    size = result.size
    return (
        f"Batches of {BATCH} transitions: observation, chunk of {HORIZON} actions, next observation. Ours draws "
        "them by task and "
        "size from the steps as they were recorded, with masks, returns, discounts and an instruction "
        "embedding of 384 numbers. "
        f"{size.rows:,} rows of state; {size.image_rows:,} rows with one {PIXELS}x{PIXELS}x3 image. One thread "
        "each unless said; "
        f"targets {STATE_TARGET:,.0f} and {IMAGE_TARGET:,.0f} per second. `Prefetcher` is the learner's way, "
        "here with a learner "
        "that computes nothing: each batch then waits for a change of threads. The peers run in their own "
        "environments, one "
        "after the other in this same run."
    )


def _sampling_rows(result: SamplingResult) -> Iterable[Sequence[str]]:
    for name, rate in result.ours.items():
        yield (f"ours, {name}", f"{rate:,.0f}", "")
    for peer in result.peers.values():
        for name, rate in peer.rates.items():
            ours = result.ours["images" if name.startswith("images") else "state"]
            what = f"{peer.peer.title} {peer.version} (torch {peer.torch}), {name}: {peer.peer.task[name]}"
            yield (what, f"{rate:,.0f}", f"{rate / ours:.2f}")


def _three(latencies_s: FloatVector) -> list[str]:
    return [_ms(latencies_s, q) for q in (0.5, 0.99, 1)]


def _ms(latencies_s: FloatVector, level: float) -> str:
    if not len(latencies_s):
        return "none"
    value_s = quantile(latencies_s, level)
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1e3:.3g} ms"


def _ratio(values: FloatVector, first: FloatVector, level: float) -> str:
    return f"{quantile(values, level) / quantile(first, level):.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
