"""`python -m tests.simulation.run --seeds 10000`: many seeds, on all cores; failing ones become regression tests."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.simulate import SimulationFailed, save_regression, simulate

_CHUNK = 20
_REPORT_EVERY_S = 5.0


def run_chunk(first: int, last: int) -> tuple[int, int, int, list[tuple[int, str]]]:
    """Run the seeds first..last-1; return steps, episodes, kills and the failures (seed, saved where and why)."""
    steps = episodes = kills = 0
    failures = []
    for seed in range(first, last):
        try:
            outcome = simulate(seed)
        except SimulationFailed as failure:
            failures.append((seed, f"{failure.reason}; saved as {save_regression(failure).name}"))
            continue
        steps += outcome.steps
        episodes += outcome.episodes
        kills += outcome.kills
    return steps, episodes, kills, failures


def chunks(start: int, seeds: int) -> Iterator[tuple[int, int]]:
    """Split start..start+seeds-1 into pieces of work."""
    for first in range(start, start + seeds, _CHUNK):
        yield first, min(first + _CHUNK, start + seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    started_s = reported_s = time.monotonic()
    done = steps = episodes = kills = 0
    failures: list[tuple[int, str]] = []
    with ProcessPoolExecutor(options.workers) as pool:
        running = {pool.submit(run_chunk, *chunk): chunk for chunk in chunks(options.start, options.seeds)}
        for future in as_completed(running):
            first, last = running[future]
            result = future.result()
            done += last - first
            steps, episodes, kills = steps + result[0], episodes + result[1], kills + result[2]
            for seed, reason in result[3]:
                print(f"seed {seed} FAILED: {reason}", flush=True)
            failures += result[3]
            now_s = time.monotonic()
            if now_s - reported_s > _REPORT_EVERY_S or done == options.seeds:
                reported_s = now_s
                rate = done / (now_s - started_s)
                print(
                    f"{done} of {options.seeds} seeds, {rate:.1f}/s: {steps} steps, {episodes} episodes, "
                    f"{kills} deaths, {len(failures)} failures",
                    flush=True,
                )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
