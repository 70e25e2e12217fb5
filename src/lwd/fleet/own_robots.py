"""Makers of robots that are not our simulated scene: Gymnasium environments and LeRobot robots."""

import contextlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwd.errors import ConfigError
from lwd.fleet.host_process import RobotHostConfig, RobotMaker, RobotSpec
from lwd.fleet.json_options import json_object
from lwd.fleet.known_tasks import KnownTask, named_as_in_run, task_of_run
from lwd.operators.protocol import Operator
from lwd.operators.scripted import ScriptedOperator
from lwd.robots.driving_options import DrivingOptions
from lwd.robots.foreign import said
from lwd.robots.protocol import Robot
from lwd.types import Embodiment, Task

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

METAWORLD = ("metaworld-mt10", "metaworld-mt10-pixels")
_DEFAULT_TIME_LIMIT = 500


def import_modules(modules: Sequence[str]) -> None:
    """Import what registers environments when it is imported (`--import`).

    Raises:
        ConfigError: if one cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # of somebody else's package, whatever it raises
            raise ConfigError(
                f"import {module!r} failed ({said(error)}): install the package, or put its directory on PYTHONPATH"
            ) from error


def gym_task(environment_id: str, time_limit: int | None = None) -> Task:
    """Return the task of an environment as its id has it, with its own limit.

    Args:
        environment_id: Gymnasium's, such as Pendulum-v1, package/Name-v0 or module:Name-v0. The module is imported, and
            so is the package where nothing has registered the id yet.
    Raises:
        ConfigError: if Gymnasium does not know the environment.
    """
    spec = _spec(environment_id)
    words = re.sub(r"-v\d+$", "", spec.id.rpartition("/")[2])
    return Task(
        name=words,
        instructions=(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).replace("_", " ").lower(),),
        heldout_instructions=(),
        sub_steps=("done",),
        time_limit=time_limit or spec.max_episode_steps or _DEFAULT_TIME_LIMIT,
        long_horizon=False,
    )


def _spec(environment_id: str) -> "EnvSpec":
    import gymnasium

    module, colon, rest = environment_id.rpartition(":")
    if colon:
        import_modules((module,))
    package, slash, _ = rest.partition("/")
    if slash and rest not in gymnasium.registry:
        # Environments of a package register themselves when it is imported, as in gym_aloha/AlohaInsertion-v0.
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(package) is not None:
                import_modules((package,))
    try:
        return gymnasium.spec(rest)
    except gymnasium.error.Error as error:
        raise ConfigError(
            f"gym {environment_id!r} is not known ({error}): install its package, and name what registers it, as in "
            f"--gym MODULE:{rest} or with --import MODULE"
        ) from error


def gym_robots(
    environment_id: str,
    task: Task,
    *,
    success: str | None,
    control_hz: float | None = None,
    arguments: str = "{}",
    embodiment: Embodiment | None = None,
    driving: str | None = None,
) -> RobotMaker:
    """Return what makes robots of a Gymnasium environment.

    Args:
        environment_id: as for `gym_task`, which has imported what registers it.
        success: rule that says when the task is done (`lwd.robots.gym_success`).
        control_hz: how many steps of the environment are a second; None: as it says.
        arguments: JSON object of keyword arguments of the environment.
        driving: JSON of `DrivingOptions`; None: as is known of the environment's package.
    Raises:
        ConfigError: if the arguments are no JSON object, or an option is wrong.
    """
    from lwd.robots.gym import GymRobot, GymSettings
    from lwd.robots.gym_success import success_test
    from lwd.robots.known_driving import known_driving

    keywords = json_object(arguments, "gym_arguments")
    registered = environment_id.rpartition(":")[2]
    settings = GymSettings(
        name=registered.replace("/", "-"),
        success=success_test(success),
        control_hz=control_hz,
        embodiment=embodiment,
        driving=known_driving(registered.partition("/")[0], None if driving is None else DrivingOptions.read(driving)),
    )

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        import gymnasium

        nonlocal settings

        def environment(_: Task) -> "gymnasium.Env[Any, Any]":
            # The time limit is the task's. Gymnasium's checker would repeat what GymRobot checks, as warnings.
            return gymnasium.make(registered, max_episode_steps=task.time_limit, disable_env_checker=True, **keywords)

        robot = GymRobot(environment, (task,), settings)
        # What one of them is, the others are, also where the simulator cannot build another one just now.
        settings = replace(settings, embodiment=robot.embodiment)
        return robot, None

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
    known: Sequence[KnownTask] = (),
    instruction: str | None = None,
    time_limit: int | None = None,
    success: str | None = None,
    control_hz: float | None = None,
    embodiment: Embodiment | None = None,
    driving: str | None = None,
) -> tuple[RobotMaker, tuple[Task, ...]]:
    """Return what makes robots of a LeRobot environment type, and their tasks.

    Args:
        arguments: JSON object of the fields of its configuration.
        names: of the tasks, as the run or the environment calls them; none: all it has.
        known: the run's tasks. One that is told by the same words has the run's name; an environment with one task does
            the run's.
        instruction: of an environment with one task.
        time_limit: control steps of an episode; None: the environment's own limits.
        success: rule that says when a task is done (`lwd.robots.gym_success`).
        control_hz: how many steps of the environment are a second; None: as LeRobot says.
        driving: JSON of `DrivingOptions`; None: as is known of the type.
    Raises:
        ConfigError: if the type, an argument or a task is not known, or the options are wrong.
    """
    from lwd.robots.gym_success import success_test
    from lwd.robots.lerobot_envs import LeRobotEnvironments

    keywords = json_object(arguments, "gym_arguments")
    options = None if driving is None else DrivingOptions.read(driving)
    test = success_test(success)
    first = LeRobotEnvironments(kind, keywords)
    chosen, own_names = _tasks_of(first.tasks, names, known, instruction, f"tasks of LeRobot's {kind}")
    if time_limit is not None:
        chosen = tuple(replace(task, time_limit=time_limit) for task in chosen)
    ready = [first]

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        environments = ready.pop() if ready else LeRobotEnvironments(kind, keywords)
        robot = environments.robot(
            chosen, own_names=own_names, success=test, control_hz=control_hz, embodiment=embodiment, driving=options
        )
        return robot, None

    return make, chosen


def _tasks_of(
    found: tuple[Task, ...],
    names: tuple[str, ...],
    known: Sequence[KnownTask],
    instruction: str | None,
    of: str,
) -> tuple[tuple[Task, ...], dict[str, str]]:
    """Return the chosen ones of an environment's tasks, and what it calls them itself, by their names."""
    if instruction is not None and len(found) != 1:
        raise ConfigError(f"instruction is {instruction!r}, but {of} are {len(found)}, each with its own: leave it out")
    in_run = named_as_in_run(found, known)
    named = tuple(own if task is None else task for own, task in zip(found, in_run, strict=True))
    if in_run == (None,):
        named = (task_of_run(found[0], known, names=names, instruction=instruction),)
    elif instruction is not None:
        named = (replace(named[0], instructions=(instruction,)),)
    own_names = {task.name: own.name for task, own in zip(named, found, strict=True)}
    by_own_name = {own: name for name, own in own_names.items()}
    chosen = _named(tuple(by_own_name.get(name, name) for name in names), named, of)
    return chosen, own_names


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
