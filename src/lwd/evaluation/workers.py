"""Spread evaluation episodes over processes; each rolls out its own batch of robots."""

import multiprocessing
import queue
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from lwd.errors import ServiceError
from lwd.evaluation.lockstep import PolicyFactory, Trial, build_policy, open_robots, roll_out
from lwd.evaluation.results import EpisodeResult

_POLL_S = 1.0


def run_in_processes(
    policy: Path | PolicyFactory, trials: Sequence[Trial], world: str, workers: int, robots: int
) -> Iterator[EpisodeResult]:
    """Run episodes in worker processes and yield them as they finish.

    Args:
        policy: a checkpoint file or a picklable function; every worker builds its own.
        workers: processes, at least 1.
        robots: simulated robots per worker.
    Raises:
        ServiceError: if a worker fails or dies.
    """
    context = multiprocessing.get_context("spawn")
    todo: multiprocessing.Queue[Trial | None] = context.Queue()
    finished: multiprocessing.Queue[EpisodeResult | str] = context.Queue()
    for trial in [*trials, *([None] * workers)]:
        todo.put(trial)
    # Few episodes spread over all workers; the batch keeps its size all the same.
    size = min(robots, -(-len(trials) // workers))
    processes = [
        context.Process(target=_work, args=(policy, todo, finished, world, robots, size), daemon=True)
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        for _ in trials:
            yield _next_result(finished, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next_result(
    finished: "multiprocessing.Queue[EpisodeResult | str]", processes: list[SpawnProcess]
) -> EpisodeResult:
    while True:
        # Looked at before the queue: what a dead worker had sent is still read first.
        codes = [process.exitcode for process in processes]
        try:
            item = finished.get(timeout=_POLL_S)
        except queue.Empty:
            if any(code not in (None, 0) for code in codes) or all(code is not None for code in codes):
                raise ServiceError(
                    f"an evaluation worker died (exit codes {codes}); finished episodes are kept, run again"
                ) from None
            continue
        if isinstance(item, str):
            raise ServiceError(f"an evaluation worker failed; finished episodes are kept. Its error:\n{item}")
        return item


def _work(
    policy: Path | PolicyFactory,
    todo: "multiprocessing.Queue[Trial | None]",
    finished: "multiprocessing.Queue[EpisodeResult | str]",
    world: str,
    batch_size: int,
    robots: int,
) -> None:
    """A worker's main: one torch thread (more make small matrices slower beside other processes)."""
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        built = build_policy(policy)
        with open_robots(built, world, robots) as pool:
            for result in roll_out(built, _trials(todo), pool, batch_size=batch_size, world=world):
                finished.put(result)
    except BaseException:
        finished.put(traceback.format_exc())
        raise


def _trials(todo: "multiprocessing.Queue[Trial | None]") -> Iterator[Trial]:
    """Draw trials until the end mark; a worker whose parent was killed stops, too."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive() and (trial := todo.get()) is not None:
        yield trial
