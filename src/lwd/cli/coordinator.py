"""Run the coordinator of a run: validates every episode, commits snapshots, quarantines what is wrong.

There is one per run; a second one is harmless (the log lets only one commit each version).
"""

import logging
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import RunOption, run_at
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator
from lwd.fleet.embodiment import fleet_embodiment


def run(
    run: RunOption = Path("runs/demo"),
    reconcile_s: Annotated[
        float, tyro.conf.arg(help="seconds between two listings of the store, which find what was never announced")
    ] = 10.0,
    embodiment: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME|FILE.json",
            help="robots whose episodes are accepted; None: RUN/embodiment.json, or those of the first episode",
        ),
    ] = None,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = run_at(run, where)
    limits = EpisodeLimits(embodiment=fleet_embodiment(embodiment) if embodiment else directory.embodiment())
    run_coordinator(
        CoordinatorConfig(
            run=directory.path,
            store=directory.store_config,
            bus=directory.bus(),
            limits=limits,
            reconcile_s=reconcile_s,
        )
    )
