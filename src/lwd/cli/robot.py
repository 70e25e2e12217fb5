"""Run robots of a run's fleet in one process: act, record, spool, upload.

A robot keeps its policy to the end of an episode. Whatever dies, an episode that was spooled is committed in the
end; SIGTERM and Ctrl-C end running episodes as truncated (outcome unknown).
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lwd.cli.options import RunOption, TasksOption, WorldOption, run_at, size_bytes
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.errors import ConfigError
from lwd.fleet.ahead import Seam
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
    gym: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ID",
            help="robots are this Gymnasium environment (package/Name-v0; or metaworld-mt10 with its ten tasks, "
            "metaworld-mt10-pixels to see them in pictures); None: the run's simulated robot",
        ),
    ] = None,
    lerobot_env: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TYPE",
            help="robots are this simulated environment of LeRobot, such as libero or metaworld, with all its tasks; "
            "None: another kind",
        ),
    ] = None,
    gym_arguments: Annotated[
        str,
        tyro.conf.arg(metavar="JSON", help="keyword arguments of the environment, or of LeRobot's configuration of it"),
    ] = "{}",
    driving: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="JSON",
            help="how a person at the console drives the environment: "
            '{"labels": [...], "absolute": true, "measured": "agent_pos", "speeds": [...]}, all optional '
            "(docs/console.md); None: as is known of it, else every number of its action as a speed",
        ),
    ] = None,
    success: Annotated[
        str | None,
        tyro.conf.arg(metavar="KEY", help="key of the environment's info that says success; None: is_success, success"),
    ] = None,
    instruction: Annotated[
        str | None, tyro.conf.arg(metavar="TEXT", help="what the environment's task is called; None: from its id")
    ] = None,
    time_limit: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help="control steps of an episode; None: the environment's own limit")
    ] = None,
    lerobot: Annotated[
        str | None,
        tyro.conf.arg(metavar="TYPE", help="LeRobot's name of the robot, such as so101_follower; None: another kind"),
    ] = None,
    lerobot_config: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE.json",
            help="its port, cameras, teleoperator and tasks (docs/bring-your-own.md); None: another kind",
        ),
    ] = None,
    predict_ahead: Annotated[
        int,
        tyro.conf.arg(
            help="actions left in a chunk when the next one is predicted in the background (one robot in real time); "
            "0: when none is left"
        ),
    ] = 0,
    seam: Annotated[
        Seam,
        tyro.conf.arg(
            help="with --predict-ahead: what is left of a chunk fades into the next one, and with guided a flow policy "
            "also samples the next one as going on from it (real-time chunking)"
        ),
    ] = "guided",
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    directory = run_at(run, where)
    config = RobotHostConfig(
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
        predict_ahead=predict_ahead,
        seam=seam,
        spool_limits=SpoolLimits(
            budget_bytes=size_bytes(spool_budget, "--spool-budget"),
            min_free_bytes=size_bytes(spool_min_free, "--spool-min-free"),
        ),
        store=directory.store_config,
        bus=directory.bus(),
    )
    embodiment = directory.own_embodiment()
    if sum(given is not None for given in (lerobot, gym, lerobot_env)) > 1:
        raise ConfigError("a robot is one of --lerobot, --gym and --lerobot-env: give one of them")
    if driving is not None and gym is None and lerobot_env is None:
        raise ConfigError("--driving is for environments of --gym and --lerobot-env: other robots say it themselves")
    if lerobot_env is not None:
        from lwd.fleet.own_robots import lerobot_environment_robots

        maker, kinds = lerobot_environment_robots(
            lerobot_env, gym_arguments, tasks, embodiment=embodiment, driving=driving
        )
        run_robot_host(config, make=maker, tasks=kinds)
    elif lerobot is not None or lerobot_config is not None:
        if lerobot is None or lerobot_config is None or len(robots) != 1:
            raise ConfigError("a LeRobot robot needs --lerobot TYPE and --lerobot-config FILE, and one name")
        from lwd.fleet.own_robots import lerobot_robots

        make, kinds = lerobot_robots(lerobot, lerobot_config, directory.embodiment())
        run_robot_host(config, make=make, tasks=kinds)
    elif gym is not None:
        from lwd.fleet.own_robots import METAWORLD, gym_robots, gym_task, metaworld_robots, metaworld_tasks

        if gym in METAWORLD:
            if driving is not None:
                raise ConfigError(f"{gym} is driven as it says itself: leave --driving out")
            maker = metaworld_robots(config, gym, embodiment=embodiment)
            run_robot_host(config, make=maker, tasks=metaworld_tasks(tasks))
            return
        task = gym_task(gym, instruction, time_limit)
        maker = gym_robots(gym, task, success=success, arguments=gym_arguments, embodiment=embodiment, driving=driving)
        run_robot_host(config, make=maker, tasks=(task,))
    else:
        run_robot_host(config)
