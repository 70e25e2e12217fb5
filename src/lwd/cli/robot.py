"""Run simulated robots of a run's fleet in one process: act, record, spool, upload.

A robot keeps its policy to the end of an episode. Whatever dies, an episode that was spooled is committed in the
end; SIGTERM and Ctrl-C end running episodes as truncated (outcome unknown).
"""

import logging
from pathlib import Path
from typing import Literal

from lwd.cli.options import RunOption, SeedOption, run_at
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host


def run(
    run: RunOption = Path("runs/demo"),
    host: str = "host-0",
    robots: tuple[str, ...] = ("robot-00",),
    world: str = "nominal",
    tasks: tuple[str, ...] = (),
    operator: Literal["scripted", "none"] = "scripted",
    operator_allowed_fraction: float = 0.4,
    seed: SeedOption = 0,
    max_env_steps: int | None = None,
    max_episodes: int | None = None,
    nats_url: str | None = None,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = run_at(run)
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
            nats_url=nats_url,
        )
    )
