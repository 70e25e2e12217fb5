"""`make bench`: every benchmark, into docs/results. Takes about a quarter of an hour on an idle machine.

python -m benchmarks.run_all
"""

import tempfile
import time
from pathlib import Path

import torch
from benchmarks import data_plane

from lwd.evaluation.rollouts import evaluate_policy
from lwd.models.checkpoint import load_policy
from lwd.recipes import bench_fleet, bench_learner
from lwd.recipes.bench_result import BenchEntry, print_entries, write_entries
from lwd.robots.sim import TASKS

RESULTS = data_plane.RESULTS / "bench.json"
SECONDS = 8.0


def main() -> None:
    entries: dict[str, BenchEntry] = {}
    torch.set_num_threads(2)
    for shape in bench_learner.SHAPES:
        for precision in ("float32", "bfloat16"):
            speed = bench_learner.measure_learner(shape, precision, seconds=SECONDS)
            entries |= bench_learner.bench_entries(speed)
    entries |= sampling()
    torch.set_num_threads(1)
    fleet = bench_fleet.measure_fleet()
    entries |= bench_fleet.bench_entries(fleet)
    entries |= evaluation(fleet.bare_steps_per_s)
    print_entries(entries)
    write_entries(RESULTS, entries)
    data_plane.run(data_plane.Extent(), data_plane.RESULTS)
    print(f"written to {RESULTS.relative_to(Path.cwd())}" if RESULTS.is_relative_to(Path.cwd()) else RESULTS)


def sampling() -> dict[str, BenchEntry]:
    """Transitions that the arena hands out, against what the fastest learner takes."""
    rate = bench_learner.measure_sampling(seconds=2.0)
    needed = 256 * 50
    return {
        "arena/sampling": BenchEntry(
            value=rate, unit="transitions/s", baseline="a learner of 50 updates/s at batch 256", ratio=rate / needed
        )
    }


def evaluation(bare_steps_per_s: float) -> dict[str, BenchEntry]:
    """Evaluation episodes in this process, against the bare simulator's time for as many steps."""
    with tempfile.TemporaryDirectory(prefix="lwd-bench-") as directory:
        path = Path(directory) / "policy.safetensors"
        path.write_bytes(bench_fleet.random_policy())
        load_policy(path)
        tasks = [task for task in TASKS.values() if not task.long_horizon]
        started_s = time.perf_counter()
        result = evaluate_policy(
            path, tasks, journal_path=Path(directory) / "journal", method="bench", episodes_per_task=4, workers=0
        )
        elapsed_s = time.perf_counter() - started_s
    steps = sum(episode.steps for episode in result.episodes)
    return {
        "evaluation/episodes": BenchEntry(
            value=len(result.episodes) / elapsed_s,
            unit="episodes/s",
            baseline=f"the bare simulator's time for their {steps} steps",
            ratio=steps / bare_steps_per_s / elapsed_s,
        )
    }


if __name__ == "__main__":
    main()
