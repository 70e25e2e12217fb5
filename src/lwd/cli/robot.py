"""Run robots of a run's fleet in one process: act, record, spool, upload.

A robot keeps its policy to the end of an episode. Whatever dies, an episode that was spooled is committed in the
end; SIGTERM and Ctrl-C end running episodes as truncated (outcome unknown).
"""

import logging
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lwd.cli.options import RunOption, TasksOption, WorldOption, run_at, size_bytes
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.errors import ConfigError
from lwd.fleet.ahead import Seam
from lwd.fleet.host_process import RobotHostConfig, RobotMaker, RobotSpec, run_robot_host
from lwd.fleet.known_tasks import known_tasks, task_of_run, warn_of_unknown
from lwd.fleet.own_robots import (
    METAWORLD,
    gym_robots,
    gym_task,
    import_modules,
    lerobot_environment_robots,
    lerobot_robots,
    metaworld_robots,
    metaworld_tasks,
)
from lwd.fleet.spool import SpoolLimits
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Task


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
            help="robots are this Gymnasium environment (Name-v0, package/Name-v0, module:Name-v0; or metaworld-mt10 "
            "with its ten tasks, metaworld-mt10-pixels to see them in pictures); None: the run's simulated robot",
        ),
    ] = None,
    imports: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(
            name="import",
            metavar="MODULE",
            help="Python module that registers the environment when it is imported, such as panda_gym; may be repeated",
        ),
    ] = (),
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
        tyro.conf.arg(
            metavar="RULE",
            help="when the environment's task is done: KEY of its info, reward>=R, terminated, or "
            "package.module:function (docs/bring-your-own.md); None: is_success or success of its info",
        ),
    ] = None,
    control_hz: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="HZ",
            help="how many steps of the environment are a second; None: as it says (render_fps, or LeRobot's fps)",
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TEXT",
            help="what the environment's task is called; None: as in the run's episodes, else from its id",
        ),
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
    if sum(given is not None for given in (lerobot, gym, lerobot_env)) > 1:
        raise ConfigError("a robot is one of --lerobot, --gym and --lerobot-env: give one of them")
    settings = EnvironmentOptions(
        imports=imports,
        arguments=gym_arguments,
        driving=driving,
        success=success,
        control_hz=control_hz,
        instruction=instruction,
        time_limit=time_limit,
    )
    if gym is None and lerobot_env is None:
        settings.require_none("without --gym and --lerobot-env")
    if lerobot_env is not None or (gym is not None and gym not in METAWORLD):
        make, kinds = environment_robots(gym, lerobot_env, directory, settings, tasks)
        run_robot_host(config, make=make, tasks=kinds)
    elif gym is not None:
        settings.require_none(f"with --gym {gym}, which says it all itself")
        make = metaworld_robots(config, gym, embodiment=directory.own_embodiment())
        run_robot_host(config, make=make, tasks=metaworld_tasks(tasks))
    elif lerobot is not None or lerobot_config is not None:
        if lerobot is None or lerobot_config is None or len(robots) != 1:
            raise ConfigError("a LeRobot robot needs --lerobot TYPE and --lerobot-config FILE, and one name")
        make, kinds = lerobot_robots(lerobot, lerobot_config, directory.embodiment())
        warn_of_unknown(kinds, known_tasks(directory.store()))
        run_robot_host(config, make=make, tasks=kinds)
    else:
        run_robot_host(config)


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """What `lwd robot` is told of environments of --gym and --lerobot-env."""

    imports: tuple[str, ...]
    arguments: str
    driving: str | None
    success: str | None
    instruction: str | None
    time_limit: int | None
    control_hz: float | None = None

    def require_none(self, when: str) -> None:
        """Refuse what would be ignored.

        Raises:
            ConfigError: if an option is given.
        """
        for name, value, unset in (
            ("import", self.imports, ()),
            ("gym-arguments", self.arguments, "{}"),
            ("driving", self.driving, None),
            ("success", self.success, None),
            ("control-hz", self.control_hz, None),
            ("instruction", self.instruction, None),
            ("time-limit", self.time_limit, None),
        ):
            if value != unset:
                raise ConfigError(f"--{name} means nothing {when}: leave it out")


def environment_robots(
    gym: str | None,
    lerobot_env: str | None,
    directory: RunDirectory,
    options: EnvironmentOptions,
    names: tuple[str, ...],
) -> tuple[RobotMaker, tuple[Task, ...]]:
    """Return what makes robots of an environment, and their tasks, called as in the run's episodes."""
    if options.time_limit is not None and options.time_limit < 1:
        raise ConfigError(f"--time-limit is {options.time_limit}; it is at least 1 control step")
    if options.control_hz is not None and not 0 < options.control_hz < inf:
        raise ConfigError(f"--control-hz is {options.control_hz}; it is a number above 0")
    import_modules(options.imports)
    embodiment, known = directory.own_embodiment(), known_tasks(directory.store())
    if lerobot_env is not None:
        make, tasks = lerobot_environment_robots(
            lerobot_env,
            options.arguments,
            names,
            known=known,
            instruction=options.instruction,
            time_limit=options.time_limit,
            success=options.success,
            control_hz=options.control_hz,
            embodiment=embodiment,
            driving=options.driving,
        )
    else:
        assert gym is not None
        task = task_of_run(gym_task(gym, options.time_limit), known, names=names, instruction=options.instruction)
        make, tasks = (
            gym_robots(
                gym,
                task,
                success=options.success,
                control_hz=options.control_hz,
                arguments=options.arguments,
                embodiment=embodiment,
                driving=options.driving,
            ),
            (task,),
        )
    warn_of_unknown(tasks, known)
    return make, tasks
