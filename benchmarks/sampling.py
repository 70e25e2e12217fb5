"""Chunk transitions per second out of the replay arena, beside other projects' replay buffers."""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from benchmarks.peers import PEERS, PeerRates, PeerUnavailable, measure_peer
from PIL import Image

from lwd.batch import TransitionBatch
from lwd.data.arena import ReplayArena
from lwd.data.sampling import BatchSampler, Prefetcher, Stratum
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.recipes.bench_result import BenchEntry
from lwd.robots.sim.embodiments import STATE_EMBODIMENT
from lwd.types import Embodiment, Episode, EpisodeInfo, Outcome, Source

BATCH = 256
HORIZON = 5
EPISODE_STEPS = 1000
PIXELS = 64
THREADS = 2
STATE_TARGET, IMAGE_TARGET = 1e6, 3e5
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class SamplingSize:
    """How much the arenas hold."""

    rows: int = 600_000
    image_rows: int = 50_000
    seconds: float = 5.0
    """For each rate."""


@dataclass(frozen=True, kw_only=True)
class SamplingResult:
    """Transitions per second."""

    size: SamplingSize
    ours: dict[str, float]
    peers: dict[str, PeerRates]
    missing: dict[str, str]
    """Peers that could not be measured, with the reason."""


def measure_sampling(size: SamplingSize, *, with_peers: bool = True) -> SamplingResult:
    """Measure ours, then each peer in its own process; one thread each unless said."""
    torch.set_num_threads(1)
    ours = {}
    for name, camera, rows in (("state", False, size.rows), ("images", True, size.image_rows)):
        sampler = _sampler(rows, camera=camera)
        ours[name] = _rate(sampler.batch, size.seconds)
        with Prefetcher(sampler) as prefetcher:
            ours[f"{name}, Prefetcher"] = _rate(prefetcher.batch, size.seconds)
        ours[f"{name}, {THREADS} threads"] = _threaded_rate(sampler, size.seconds)
        sampler.arena.close()
    peers: dict[str, PeerRates] = {}
    missing: dict[str, str] = {}
    sizes = (
        size.rows,
        size.image_rows,
        STATE_EMBODIMENT.state_size,
        STATE_EMBODIMENT.action_size,
        EPISODE_STEPS,
        HORIZON,
        BATCH,
        size.seconds,
    )
    for peer in PEERS if with_peers else ():
        try:
            peers[peer.name] = measure_peer(peer, [str(number) for number in sizes])
        except PeerUnavailable as error:
            missing[peer.name] = str(error)
    return SamplingResult(size=size, ours=ours, peers=peers, missing=missing)


def sampling_entries(result: SamplingResult) -> dict[str, BenchEntry]:
    """Return what goes into the results file: ours against the target, the peers against ours."""
    entries = {}
    for name, rate in result.ours.items():
        target = IMAGE_TARGET if name.startswith("images") else STATE_TARGET
        entries[f"data/sampling/{_slug(name)}"] = BenchEntry(
            value=rate, unit="transitions/s", baseline=f"the target, {target:g}/s", ratio=rate / target
        )
    for peer in result.peers.values():
        for name, rate in peer.rates.items():
            ours = result.ours["images" if name.startswith("images") else "state"]
            entries[f"data/sampling/{peer.peer.name}/{_slug(name)}"] = BenchEntry(
                value=rate,
                unit="transitions/s",
                baseline=f"our arena on one thread in the same run, {ours:.4g}/s",
                ratio=rate / ours,
            )
    return entries


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-").lower()


def _sampler(rows: int, *, camera: bool) -> BatchSampler:
    embodiment = replace(STATE_EMBODIMENT, cameras={"front": (PIXELS, PIXELS)}) if camera else STATE_EMBODIMENT
    vector = np.random.default_rng(0).normal(size=EMBEDDING_SIZE)
    arena = ReplayArena(
        embodiment, horizon=HORIZON, gamma=0.999, embed=lambda _: vector, initial_rows=rows + rows // EPISODE_STEPS + 1
    )
    arena.add(_episodes(embodiment, rows))
    return BatchSampler(arena, [Stratum()], batch_size=BATCH, seed=0)


def _episodes(embodiment: Embodiment, rows: int) -> Iterator[Episode]:
    rng = np.random.default_rng(0)
    frames = [_frame(rng) for _ in range(64)] if embodiment.cameras else []
    for number in range(max(1, rows // EPISODE_STEPS)):
        steps = min(EPISODE_STEPS, rows)
        chosen = rng.integers(0, len(frames), steps + 1) if frames else ()
        yield Episode(
            info=EpisodeInfo(
                episode_id=f"episode-{number}",
                robot_id="bench",
                embodiment=embodiment.name,
                task=f"task-{number % 8}",
                instruction="do what the benchmark says",
                source=Source.FLEET,
                outcome=Outcome.SUCCESS if number % 2 else Outcome.TIME_LIMIT,
                policy_version=0,
                sub_step_scores=(),
                control_hz=embodiment.control_hz,
                seed=number,
                world="nominal",
                started_at_s=0.0,
                software_version="benchmark",
            ),
            states_TS=rng.normal(size=(steps + 1, embodiment.state_size)).astype(np.float32),
            actions_TA=rng.uniform(-1, 1, size=(steps, embodiment.action_size)).astype(np.float32),
            controllers_T=(rng.random(steps) < 0.1).astype(np.uint8),
            images={camera: tuple(frames[index] for index in chosen) for camera in embodiment.cameras},
        )


def _frame(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _rate(batch: Callable[[int], TransitionBatch], seconds: float) -> float:
    """Return the median rate of several rounds: a machine that is not ours alone slows some of them."""
    rates, index = [], 0
    for _ in range(_ROUNDS):
        started_s, first = time.perf_counter(), index
        while index == first or time.perf_counter() - started_s < seconds / _ROUNDS:
            batch(index)
            index += 1
        rates.append((index - first) * BATCH / (time.perf_counter() - started_s))
    return float(np.median(rates))


def _threaded_rate(sampler: BatchSampler, seconds: float) -> float:
    """Return the rate of several threads together, each with batches of its own."""
    deadline_s = time.perf_counter() + seconds

    def draw(thread: int) -> int:
        count = 0
        while count == 0 or time.perf_counter() < deadline_s:
            sampler.batch(count * THREADS + thread)
            count += 1
        return count

    started_s = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        batches = sum(pool.map(draw, range(THREADS)))
    return batches * BATCH / (time.perf_counter() - started_s)
