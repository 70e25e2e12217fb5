"""Makers of robots that are not our simulated scene: Gymnasium environments and LeRobot robots."""

import re
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.fleet.host_process import RobotHostConfig, RobotMaker, RobotSpec
from lwd.fleet.json_options import json_object
from lwd.operators.protocol import Operator
from lwd.operators.scripted import ScriptedOperator
from lwd.robots.driving_options import DrivingOptions
from lwd.robots.protocol import Robot
from lwd.types import Embodiment, Task

METAWORLD = ("metaworld-mt10", "metaworld-mt10-pixels")
_DEFAULT_TIME_LIMIT = 500


def gym_task(environment_id: str, instruction: str | None, time_limit: int | None) -> Task:
    """Return the task of an environment: its id's words, its own limit.

    Raises:
        ConfigError: if Gymnasium does not know the environment.
    """
    import gymnasium

    module, separator, _ = environment_id.partition("/")
    try:
        if separator:
            # Environments of a package register themselves when it is imported, as in gym_aloha/AlohaInsertion-v0.
            gymnasium.register_envs(__import__(module))
        spec = gymnasium.spec(environment_id)
    except (ImportError, gymnasium.error.Error) as error:
        raise ConfigError(
            f"gym {environment_id!r} is not known ({error}): install its package, check its id"
        ) from error
    words = re.sub(r"-v\d+$", "", environment_id.rpartition("/")[2])
    spoken = instruction or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).replace("_", " ").lower()
    return Task(
        name=words,
        instructions=(spoken,),
        heldout_instructions=(),
        sub_steps=("done",),
        time_limit=time_limit or spec.max_episode_steps or _DEFAULT_TIME_LIMIT,
        long_horizon=False,
    )


def gym_robots(
    environment_id: str,
    task: Task,
    *,
    success: str | None,
    arguments: str = "{}",
    embodiment: Embodiment | None = None,
    driving: str | None = None,
) -> RobotMaker:
    """Return what makes robots of a Gymnasium environment.

    Args:
        success: key of `info` that is above 0 when the task is done; None: is_success or success.
        arguments: JSON object of keyword arguments of the environment.
        driving: JSON of `DrivingOptions`; None: as is known of the environment's package.
    Raises:
        ConfigError: if the arguments are no JSON object, or the options are wrong.
    """
    from lwd.robots.gym import GymRobot, GymSettings
    from lwd.robots.known_driving import known_driving

    keywords = json_object(arguments, "gym_arguments")
    driven = known_driving(environment_id.partition("/")[0], None if driving is None else DrivingOptions.read(driving))

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        import gymnasium

        def environment(_: Task) -> "gymnasium.Env[Any, Any]":
            # The time limit is the task's. Gymnasium's checker would repeat what GymRobot checks, as warnings.
            return gymnasium.make(
                environment_id, max_episode_steps=task.time_limit + 1, disable_env_checker=True, **keywords
            )

        settings = GymSettings(
            name=environment_id.replace("/", "-"), success=success, embodiment=embodiment, driving=driven
        )
        return GymRobot(environment, (task,), settings), None

    return make


def metaworld_robots(config: RobotHostConfig, name: str, *, embodiment: Embodiment | None = None) -> RobotMaker:
    """Return what makes Meta-World robots, helped by its scripted experts as the configuration says.

    Args:
        name: one of `METAWORLD`.
    """
    from lwd.robots.metaworld import PICTURE_NAME, MetaWorldExpert, make_metaworld

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        robot = make_metaworld(pixels=name == PICTURE_NAME, embodiment=embodiment)
        if config.operator == "none":
            return robot, None
        operator = ScriptedOperator(
            MetaWorldExpert(), patience=config.operator_patience, allowed_fraction=config.operator_allowed_fraction
        )
        return robot, operator

    return make


def metaworld_tasks(names: tuple[str, ...] = ()) -> tuple[Task, ...]:
    """Return MT10's tasks of these names; all without any.

    Raises:
        ConfigError: if a name is not among them.
    """
    from lwd.robots.metaworld import MT10

    return _named(names, MT10, "Meta-World's MT10")


def lerobot_environment_robots(
    kind: str,
    arguments: str,
    names: tuple[str, ...],
    *,
    embodiment: Embodiment | None = None,
    driving: str | None = None,
) -> tuple[RobotMaker, tuple[Task, ...]]:
    """Return what makes robots of a LeRobot environment type, and their tasks.

    Args:
        arguments: JSON object of the fields of its configuration.
        names: of the tasks; none: all it has.
        driving: JSON of `DrivingOptions`; None: as is known of the type.
    Raises:
        ConfigError: if the type, an argument or a task is not known, or the options are wrong.
    """
    from lwd.robots.lerobot_envs import LeRobotEnvironments

    keywords = json_object(arguments, "gym_arguments")
    options = None if driving is None else DrivingOptions.read(driving)
    first = LeRobotEnvironments(kind, keywords)
    tasks = _named(names, first.tasks, f"tasks of LeRobot's {kind}")
    ready = [first]

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        environments = ready.pop() if ready else LeRobotEnvironments(kind, keywords)
        return environments.robot(tasks, embodiment=embodiment, driving=options), None

    return make, tasks


def lerobot_robots(kind: str, path: Path, embodiment: Embodiment) -> tuple[RobotMaker, tuple[Task, ...]]:
    """Return what makes a LeRobot robot with its teleoperator, and its tasks.

    Args:
        kind: LeRobot's type, such as so101_follower.
        path: JSON with the fields of `lwd.robots.lerobot.LeRobotConfig`.
    Raises:
        ConfigError: if the file, the robot or the teleoperator is wrong.
    """
    from lwd.operators.lerobot import LeRobotOperator
    from lwd.robots.lerobot import LeRobotRobot, read_config
    from lwd.robots.lerobot_devices import make_device, make_teleoperator

    config = read_config(path)

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        robot = LeRobotRobot(make_device(kind, config.robot), embodiment, config)
        if config.teleoperator is None:
            return robot, None
        events = None if config.events is None else make_teleoperator(config.events)
        device = make_teleoperator(config.teleoperator)
        return robot, LeRobotOperator(device, embodiment, robot.action_names, events=events)

    return make, config.tasks_at(embodiment.control_hz)


def _named(names: tuple[str, ...], tasks: tuple[Task, ...], of: str) -> tuple[Task, ...]:
    known = {task.name: task for task in tasks}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"task {unknown[0]!r} is not one of {of}: {', '.join(known)}")
    return tuple(known[name] for name in names) or tasks
