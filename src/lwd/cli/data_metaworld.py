"""Make offline data of Meta-World's MT10 with its scripted experts, into the run's store.

Demonstrations and, with strong noise, roll-outs of which some fail. Episodes that are there already are not made
again, so an interrupted command continues. `lwd robot --gym metaworld-mt10` are the same run's robots.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import RunOption, TasksOption, console, next_step, progress, run_at
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.commands import lwd_command
from lwd.fleet.own_robots import metaworld_tasks


def run(
    run: RunOption = Path("runs/metaworld"),
    tasks: TasksOption = (),
    demonstrations: Annotated[int, tyro.conf.arg(help="per task, all successful")] = 10,
    rollouts: Annotated[int, tyro.conf.arg(help="per task, however they end")] = 10,
    pixels: Annotated[
        bool,
        tyro.conf.arg(
            help="the robot sees a 64 x 64 picture and its hand, as in LeRobot's metaworld environment, not all poses; "
            "its robots are --gym metaworld-mt10-pixels. Drawn in software this takes .1 s a step"
        ),
    ] = False,
    where: StoreOptions = NOTED_STORE,
) -> None:
    # Here, not above: the verb explains itself without Meta-World.
    from lwd.recipes.metaworld_data import MetaWorldData, generate_metaworld

    data = MetaWorldData(demonstrations=demonstrations, rollouts=rollouts, pixels=pixels)
    with progress("data") as bar:
        result = generate_metaworld(run_at(run, where, begins=True), data, metaworld_tasks(tasks), progress=bar)
    console.print(f"{len(result.committed)} episodes committed")
    next_step(lwd_command("sft", "--run", run))
