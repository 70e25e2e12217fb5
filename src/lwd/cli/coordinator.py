"""Run the coordinator of a run: validates every episode, commits snapshots, quarantines what is wrong.

There is one per run; a second one is harmless (the log lets only one commit each version).
"""

import logging
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import NatsUrlOption, RunOption, run_at
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator


def run(
    run: RunOption = Path("runs/demo"),
    nats_url: NatsUrlOption = None,
    reconcile_s: Annotated[
        float, tyro.conf.arg(help="seconds between two listings of the store, which find what was never announced")
    ] = 10.0,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = run_at(run)
    limits = EpisodeLimits(embodiment=directory.embodiment())
    run_coordinator(CoordinatorConfig(run=directory.path, nats_url=nats_url, limits=limits, reconcile_s=reconcile_s))
