"""Run simulated robots of a run's fleet in one process: act, record, spool, upload.

A robot keeps its policy to the end of an episode. Whatever dies, an episode that was spooled is committed in the
end; SIGTERM and Ctrl-C end running episodes as truncated (outcome unknown).
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lwd.cli.options import RunOption, TasksOption, WorldOption, run_at, size_bytes
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.spool import SpoolLimits


def run(
    run: RunOption = Path("runs/demo"),
    host: Annotated[str, tyro.conf.arg(help="name of this process, unique in the fleet")] = "host-0",
    robots: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]", help="names of its robots, unique in the fleet")
    ] = ("robot-00",),
    world: WorldOption = "nominal",
    tasks: TasksOption = (),
    operator: Annotated[
        Literal["scripted", "none"],
        tyro.conf.arg(help="who helps a stuck robot: an expert that knows the simulator's state, or nobody"),
    ] = "scripted",
    operator_allowed_fraction: Annotated[
        float, tyro.conf.arg(help="share of the episodes in which the operator may help")
    ] = 0.4,
    seed: Annotated[int, tyro.conf.arg(help="seed of starts, instructions and the policy's noise")] = 0,
    max_env_steps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help="control steps after which no episode begins; None: no limit")
    ] = None,
    max_episodes: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help="episodes after which none begins; None: no limit")
    ] = None,
    spool_budget: Annotated[
        str,
        tyro.conf.arg(
            metavar="SIZE",
            help="disk space for episodes that are not committed yet; when it is used up, no episode begins until "
            "some are (an uncommitted one is never deleted)",
        ),
    ] = "20GiB",
    spool_min_free: Annotated[
        str, tyro.conf.arg(metavar="SIZE", help="space to leave free on the spool's disk, whoever fills it")
    ] = "1GiB",
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = run_at(run, where)
    run_robot_host(
        RobotHostConfig(
            run=directory.path,
            host_id=host,
            embodiment=directory.embodiment().name,
            robots=tuple(RobotSpec(robot_id=robot_id, world=world) for robot_id in robots),
            tasks=tasks,
            operator=operator,
            operator_allowed_fraction=operator_allowed_fraction,
            seed=seed,
            max_env_steps=max_env_steps,
            max_episodes=max_episodes,
            spool_limits=SpoolLimits(
                budget_bytes=size_bytes(spool_budget, "--spool-budget"),
                min_free_bytes=size_bytes(spool_min_free, "--spool-min-free"),
            ),
            store=directory.store_config,
            bus=directory.bus(),
        )
    )
