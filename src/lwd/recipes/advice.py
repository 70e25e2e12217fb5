"""What to do next with a run: it follows the run's robot, and names nothing that would not work with it."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from lwd.commands import lwd_command
from lwd.errors import ConfigError
from lwd.robots.sim import SIMULATED
from lwd.robots.sim.embodiments import PIXEL_EMBODIMENT
from lwd.types import Embodiment

_METAWORLD = ("metaworld-mt10", "metaworld-mt10-pixels")
_ROBOT_KINDS = ("--gym", "--lerobot-env", "--lerobot")
"""Options of `lwd robot` that say which robots they are, if not the simulated ones."""


def no_run(path: Path) -> ConfigError:
    """Return the error about a run that is not there."""
    beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
    hint = f" (did you mean {path.parent / near[0]}?)" if near else ""
    return ConfigError(
        f"there is no run {path}{hint}: give the directory of one with --run, or begin it with `lwd demo`, "
        "`lwd data generate` or `lwd data import`"
    )


def is_brought(robot: Embodiment | None) -> bool:
    """Whether a run's robot is the user's own, not a simulated one of ours; None: the run has no description of one."""
    return robot is not None and robot.name not in SIMULATED


def fill(run: Path, robot: Embodiment | None) -> str:
    """Say how episodes of the run's robot come into its store.

    Args:
        robot: what RUN/embodiment.json describes; None: there is no such file.
    """
    name = None if robot is None else robot.name
    if name in _METAWORLD:
        seen = ("--pixels",) if name != _METAWORLD[0] else ()
        return f"run `{lwd_command('data', 'metaworld', '--run', run, *seen)}`"
    imports = f"`{lwd_command('data', 'import', '--run', run, '--lerobot', 'DATASET')}`"
    if is_brought(robot):
        return f"run {imports} with recordings of {name}"
    pixels = ("--observation", "pixels") if name == PIXEL_EMBODIMENT.name else ()
    return f"run `{lwd_command('data', 'generate', '--run', run, *pixels)}`, or {imports} for a robot of yours"


def require_simulated(run: Path, robot: Embodiment | None) -> None:
    """Refuse to fill a run of a brought robot with episodes of the simulated one.

    Raises:
        ConfigError: naming the robot and the command that fits it.
    """
    if robot is not None and is_brought(robot):
        raise ConfigError(
            f"run {run} is of robot {robot.name}, which `lwd data generate` does not simulate: {fill(run, robot)}, or "
            "give another --run"
        )


def require_robot_kind(run: Path, robot: Embodiment | None, words: Sequence[str]) -> None:
    """Refuse to start simulated robots in a run of a brought robot.

    Args:
        words: further options of the robot hosts.
    Raises:
        ConfigError: naming the option that is missing.
    """
    if robot is None or not is_brought(robot):
        return
    if not any(word.partition("=")[0].replace("_", "-") in _ROBOT_KINDS for word in words):
        raise ConfigError(
            f"run {run} is of robot {robot.name}, which is not simulated: say what its robots are, such as "
            f"{_robot_options(robot)}; a real robot has a host of its own (docs/bring-your-own.md)"
        )


def after_fitting(robot: Embodiment, then: str, policy: Path) -> str:
    """Return what follows a stage: the next one, or an evaluation where there can be one.

    Args:
        then: the next stage's command.
        policy: the file that the stage has made.
    """
    if is_brought(robot):
        return then
    return f"{then}   (or {lwd_command('evaluate', policy)})"


def start_fleet(run: Path, robot: Embodiment, words: Sequence[str]) -> str:
    """Return the command that starts a fleet of the run's robot.

    Args:
        words: further options of `lwd up`.
    """
    command = lwd_command("up", "--run", run, *words)
    if not is_brought(robot):
        return command
    return f"{command} {_robot_options(robot)}   (real robots: docs/bring-your-own.md)"


def after_fleet(run: Path, robot: Embodiment, method: str) -> str:
    """Return what follows when a policy has learned online, by the name of its evaluation."""
    report = lwd_command("report", run)
    return report if is_brought(robot) else f"{lwd_command('evaluate', run, '--method', method)}, then {report}"


def _robot_options(robot: Embodiment) -> str:
    kind = robot.name if robot.name in _METAWORLD else "ID"
    return f'--robot-options="--gym {kind}"'
