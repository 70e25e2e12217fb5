"""A check from outside: train on OGBench's own task from play data, and compare with published figures.

Makes the data (25 s of one core per shard), trains from scratch, evaluates on the way; Ctrl-C saves, the same
command continues. Every evaluation is added to OUT/ogbench_check.json at once.
"""

from pathlib import Path
from typing import Annotated

import torch
import tyro

from lwd.cli.options import SeedOption, ThreadsOption, progress, status
from lwd.models.precision import Precision
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.ogbench_check.check import CheckConfig, CheckMethod, run_check
from lwd.recipes.ogbench_check.play_data import BenchmarkEnv


def run(
    env: Annotated[BenchmarkEnv, tyro.conf.arg(help="environment; its single task number 2")] = "scene",
    method: Annotated[CheckMethod, tyro.conf.arg(help="LWD, or QAM with its own critic")] = "lwd",
    seed: SeedOption = 0,
    updates: Annotated[
        int, tyro.conf.arg(help="of the critic, the first 10,000 without the policy; published figures: 1,000,000")
    ] = 100_000,
    evaluate_every: Annotated[int, tyro.conf.arg(help="updates between two evaluations")] = 25_000,
    episodes: Annotated[int, tyro.conf.arg(help="of each evaluation")] = 50,
    shards: Annotated[int, tyro.conf.arg(help="of play data, 10,010 steps each")] = 50,
    precision: Annotated[
        Precision,
        tyro.conf.arg(help="of matrix products in training; bfloat16: faster where the processor knows it"),
    ] = "float32",
    workers: Annotated[int, tyro.conf.arg(help="processes that make data")] = 2,
    threads: ThreadsOption = 2,
    root: Annotated[Path, tyro.conf.arg(help="directory of data and checkpoints")] = Path("runs/ogbench-check"),
    out: Annotated[Path, tyro.conf.arg(help="directory of ogbench_check.json")] = Path("docs/results"),
) -> None:
    torch.set_num_threads(threads)
    config = CheckConfig(
        env=env,
        method=method,
        root=root,
        out=out,
        seed=seed,
        updates=updates,
        evaluate_every=evaluate_every,
        episodes=episodes,
        shards=shards,
        workers=workers,
        precision=precision,
    )
    with StopRequest() as request, progress(f"{env} {method}") as bar:
        done = run_check(
            config,
            stop=lambda: request.stop,
            watch=lambda result, total: bar(result.update, total),
            say=lambda text: status.print(text, highlight=False),
        )
    if not done:
        raise KeyboardInterrupt
