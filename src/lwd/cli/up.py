"""Start a fleet on this machine: message bus, coordinator, learner and simulated robots, each a process.

Ends when the online stage has used its fleet steps, or on Ctrl-C; the same command continues. Logs are in RUN/logs.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.console_link import show_link
from lwd.cli.fleet_progress import watch_fleet
from lwd.cli.options import (
    BudgetOption,
    ConsoleOption,
    DeviceOption,
    EnvStepsOption,
    MethodOption,
    QuantileLevelOption,
    RunOption,
    SeedOption,
    next_step,
    require_device,
    run_at,
    status,
)
from lwd.cli.parsing import split_words
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.recipes.advice import after_fleet
from lwd.recipes.fleet_up import FleetUp, run_fleet
from lwd.recipes.methods import method_recipe


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    robots: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help="simulated robots; None: the budget's number")
    ] = None,
    hosts: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help="processes that share the robots; None: one per core besides the learner's"),
    ] = None,
    env_steps: EnvStepsOption = None,
    world: Annotated[
        str | None, tyro.conf.arg(metavar="WORLD", help="nominal or shifted; None: the budget's world")
    ] = None,
    seed: SeedOption = 0,
    method: MethodOption = "lwd",
    quantile_level: QuantileLevelOption = None,
    device: DeviceOption = "cpu",
    nats_port: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help="loopback port of the embedded message bus; None: a free one")
    ] = None,
    console: ConsoleOption = False,
    console_port: Annotated[int, tyro.conf.arg(help="loopback port of the console")] = 8787,
    robot_options: Annotated[
        str,
        tyro.conf.arg(
            metavar="WORDS",
            help='further options of every `lwd robot`: --robot-options="--gym metaworld-mt10 --operator none"',
        ),
    ] = "",
    learner_options: Annotated[
        str,
        tyro.conf.arg(
            metavar="WORDS",
            help='further options of `lwd learner`: --learner-options="--prefix-cache 20 --arena-directory rows"',
        ),
    ] = "",
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    from lwd.cli import learner, robot

    directory, settings = run_at(run, where), method_recipe(budget, method, quantile_level=quantile_level).fleet
    fleet = FleetUp(
        budget=budget,
        robots=settings.robots if robots is None else robots,
        hosts=hosts,
        env_steps=settings.env_steps if env_steps is None else env_steps,
        world=settings.world if world is None else world,
        seed=seed,
        method=method,
        quantile_level=quantile_level,
        device=require_device(device),
        nats_port=nats_port,
        console_port=console_port if console else None,
        robot_options=split_words("--robot-options", robot_options, "robot", robot.run),
        learner_options=split_words("--learner-options", learner_options, "learner", learner.run),
    )
    if console:
        show_link(directory.path, console_port, status)
    with watch_fleet(directory, fleet.env_steps) as on_event:
        run_fleet(directory, fleet, on_event=on_event)
    online = directory.checkpoints("online").latest()
    if online is None or not online.progress.finished:
        raise KeyboardInterrupt
    next_step(after_fleet(run, directory.embodiment(), "lwd_online"))
