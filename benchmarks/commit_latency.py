"""Commit latency by the number of versions that the log already has; it must not grow."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from benchmarks.fleet_child import Recordings
from benchmarks.fleet_latency import LEVELS
from benchmarks.fleet_run import FloatVector, quantile

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter, log_key
from lwd.data.store import ObjectStore, StoreConfig, open_store
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.judging import Candidate
from lwd.recipes.bench_result import BenchEntry
from lwd.types import Outcome, Source

SIZES = (100, 1_000, 10_000)
_FILL_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class CommitLatency:
    """Latencies at one size of the log, in seconds."""

    versions: int
    append_s: FloatVector
    """`LogWriter.commit` alone: one more version, durable."""
    process_s: FloatVector
    """`Coordinator.process` of one uploaded episode: poll, download, validate, commit, and now and then an index."""


def measure_commits(stores: Sequence[StoreConfig], sizes: Sequence[int], *, commits: int) -> list[CommitLatency]:
    """Fill one store for each size, and commit to all of them by turns: a change of the machine meets all alike."""
    opened = [open_store(config) for config in stores]
    for store, size in zip(opened, sizes, strict=True):
        fill(store, size)
    readers = [LogReader(store) for store in opened]
    for reader in readers:
        reader.poll()
    writers = [LogWriter(store, reader) for store, reader in zip(opened, readers, strict=True)]
    append_s: list[list[float]] = [[] for _ in sizes]
    for count in range(commits):
        for row, reader, writer in zip(append_s, readers, writers, strict=True):
            entry = _entry(reader.version + 1, f"append-{count}")
            started_s = time.perf_counter()
            if not writer.commit(entry):
                raise RuntimeError("another program writes to the benchmark's store")
            row.append(time.perf_counter() - started_s)

    coordinators = [Coordinator(store, EpisodeLimits()) for store in opened]
    process_s: list[list[float]] = [[] for _ in sizes]
    recordings = Recordings(seed=0)
    for count in range(commits):
        for row, store, coordinator in zip(process_s, opened, coordinators, strict=True):
            candidate = _upload(store, recordings, f"process-{count}")
            started_s = time.perf_counter()
            result = coordinator.process([candidate])
            row.append(time.perf_counter() - started_s)
            if len(result.committed) != 1:
                raise RuntimeError(f"the episode was not committed: {result}")
    return [
        CommitLatency(versions=size, append_s=np.array(append), process_s=np.array(process))
        for size, append, process in zip(sizes, append_s, process_s, strict=True)
    ]


def fill(store: ObjectStore, versions: int) -> None:
    """Give a log its first `versions` entries of one episode each."""

    def create(version: int) -> None:
        store.create(log_key(version), _entry(version, f"fill-{version}").model_dump_json().encode())

    with ThreadPoolExecutor(_FILL_THREADS) as pool:
        list(pool.map(create, range(1, versions + 1)))


def commit_entries(store: str, results: Sequence[CommitLatency]) -> dict[str, BenchEntry]:
    """Return what goes into the results file; each ratio is against the smallest log."""
    entries = {}
    for level, share in LEVELS.items():
        for what in ("append", "process"):
            values_ms = [quantile(getattr(result, f"{what}_s"), share) * 1e3 for result in results]
            for result, value_ms in zip(results, values_ms, strict=True):
                entries[f"data/commit/{store}/{result.versions}/{what}-{level}"] = BenchEntry(
                    value=value_ms,
                    unit="ms",
                    baseline=f"the same at {results[0].versions} versions: {values_ms[0]:.3g} ms",
                    ratio=value_ms / values_ms[0],
                )
    return entries


def _upload(store: ObjectStore, recordings: Recordings, name: str) -> Candidate:
    key = episode_key("robot", name)
    store.create(key, write_episode(recordings.episode(name, "robot")))
    return Candidate(key=key, uploaded_at_s=time.time())


def _entry(version: int, name: str) -> LogEntry:
    return LogEntry(
        version=version,
        epoch=1,
        batch_id=name,
        committed_at_s=time.time(),
        added=(
            EpisodeEntry(
                episode_id=name,
                key=episode_key("robot", name),
                sha256="0" * 64,
                bytes=80_000,
                robot_id="robot",
                embodiment="bench-arm",
                task="bench",
                instruction="do what the benchmark says",
                source=Source.FLEET,
                outcome=Outcome.SUCCESS,
                world="nominal",
                policy_version=0,
                steps=1000,
                human_steps=100,
                interventions=3,
                sub_step_scores=(1.0,),
                control_hz=30.0,
                started_at_s=time.time(),
                uploaded_at_s=time.time(),
            ),
        ),
    )
