"""Updates per second, split into value, critic and actor, against the arithmetic floor.

The floor is the time of the update's matrix products alone, each measured on this machine in its own shape, layout
and precision. Times are the fastest of their runs: on a busy machine give it longer.
"""

from typing import Annotated

import torch
import tyro

from lwd.cli.options import ThreadsOption
from lwd.models.precision import Precision
from lwd.recipes.bench_learner import SHAPES, bench_entries, measure_learner
from lwd.recipes.bench_result import print_entries


def run(
    precision: Annotated[
        tuple[Precision, ...], tyro.conf.arg(help="of activations and matrix products; parameters are float32")
    ] = ("float32", "bfloat16"),
    seconds: Annotated[float, tyro.conf.arg(help="time for each shape and precision")] = 8.0,
    threads: ThreadsOption = 2,
) -> None:
    torch.set_num_threads(threads)
    for shape in SHAPES:
        for each in precision:
            print_entries(bench_entries(measure_learner(shape, each, seconds=seconds)))
