"""Learn online: train on offline and fleet data at 1:1, publish a policy every 50 updates, checkpoint.

Killed at any moment, it continues from its last checkpoint on the same snapshots in the same order.
"""

import logging
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import (
    BudgetOption,
    DeviceOption,
    EnvStepsOption,
    RunOption,
    SeedOption,
    ThreadsOption,
    console,
    require_device,
    run_at,
)
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.learner.online import OnlineStage
from lwd.recipes.fleet_learner import LearnerConfig, run_learner, with_fleet
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.scene import recipe


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 1,
    env_steps: EnvStepsOption = None,
    max_seconds: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help="seconds after which the stage is over; None: no limit")
    ] = None,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = with_fleet(recipe(budget), robots=None, env_steps=env_steps, world=None)
    config = LearnerConfig(
        seed=seed,
        device=require_device(device),
        threads=threads,
        max_seconds=max_seconds,
    )

    def say(stage: OnlineStage) -> None:
        progress = stage.progress
        console.print(
            f"update {progress.update}  snapshot {progress.snapshot}  policy {progress.policy_version}  "
            f"fleet steps {stage.reader.env_steps}/{settings.fleet.env_steps}",
            highlight=False,
        )

    with StopRequest() as request:
        stage = run_learner(run_at(run, where), settings, config, stop=lambda: request.stop, report=say)
    if not stage.progress.finished:
        raise KeyboardInterrupt
