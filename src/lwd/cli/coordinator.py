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
from lwd.errors import ConfigError
from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator
from lwd.fleet.embodiment import built_in_time_limits, fleet_embodiment


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
    time_limits: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[TASK=STEPS ...]",
            help="tasks of the fleet and the control steps of their episodes; longer ones and other tasks are refused; "
            "none: those of the built-in robot, of any other robot every task",
        ),
    ] = (),
    max_episode_steps: Annotated[
        int, tyro.conf.arg(help="control steps of a fleet episode whose task's limit is not known")
    ] = 20_000,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = run_at(run, where, begins=embodiment is not None)
    robot = fleet_embodiment(embodiment) if embodiment else directory.embodiment()
    limits = EpisodeLimits(
        embodiment=robot,
        max_fleet_steps=max_episode_steps,
        time_limits=_steps_by_task(time_limits) or built_in_time_limits(robot),
    )
    run_coordinator(
        CoordinatorConfig(
            run=directory.path,
            store=directory.store_config,
            bus=directory.bus(),
            limits=limits,
            reconcile_s=reconcile_s,
        )
    )


def _steps_by_task(options: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for option in options:
        task, separator, steps = option.rpartition("=")
        if not separator or not task or not steps.isdecimal() or int(steps) < 1:
            raise ConfigError(f"time limit {option!r} is no TASK=STEPS: give such as pick=300")
        found[task] = int(steps)
    return found
