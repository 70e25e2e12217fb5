"""LeRobot's robots and teleoperators by their type, made from LeRobot's own configuration."""

import importlib
import logging
import pkgutil
from collections.abc import Mapping
from typing import Any

import draccus
import lerobot.cameras
import lerobot.robots
import lerobot.teleoperators
from lerobot.robots import Robot as Device
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config

from lwd.errors import ConfigError
from lwd.lerobot_parts import note_type
from lwd.robots.lerobot_plugins import load_plugins

_logger = logging.getLogger(__name__)


def make_device(kind: str, config: Mapping[str, Any]) -> Device:
    """Build LeRobot's robot of a type such as so101_follower (or so101, for short), its own or a plug-in's.

    Raises:
        ConfigError: if LeRobot has no such robot, or refuses its configuration.
    """
    name = _known("robot", RobotConfig, lerobot.robots, (kind, f"{kind}_follower"))
    try:
        device = make_robot_from_config(draccus.decode(RobotConfig, {"type": name, **config}))
    except (Exception, SystemExit) as error:  # draccus' own, and those of missing drivers
        raise ConfigError(f"LeRobot cannot make robot {name} ({error}): correct the section `robot`") from error
    note_type(device, name)
    return device


def make_teleoperator(config: Mapping[str, Any]) -> Teleoperator:
    """Build LeRobot's teleoperator from its configuration, with its `type`, LeRobot's own or a plug-in's.

    Raises:
        ConfigError: if LeRobot has no such device, or refuses its configuration.
    """
    kind = _known("teleoperator", TeleoperatorConfig, lerobot.teleoperators, (str(config.get("type")),))
    try:
        device = make_teleoperator_from_config(draccus.decode(TeleoperatorConfig, dict(config)))
    except (Exception, SystemExit) as error:  # draccus' own, and those of missing drivers
        raise ConfigError(f"LeRobot cannot make teleoperator {kind} ({error}): correct its section") from error
    note_type(device, kind)
    return device


def _known(what: str, registry: Any, package: Any, names: tuple[str, ...]) -> str:
    """Return the first of the names that LeRobot, or a plug-in of it, has registered."""
    # Cameras, too: a robot's configuration is read with theirs.
    for one in (package, lerobot.cameras):
        _load_all(one)
    failed = load_plugins()
    known = registry.get_known_choices()
    if (name := next((name for name in names if name in known), None)) is None:
        raise ConfigError(
            f"LeRobot has no {what} {names[0]!r}; it has: {', '.join(sorted(known))}"
            + (f" (plug-ins that cannot be loaded: {', '.join(failed)}; the log says why)" if failed else "")
        )
    return name


def _load_all(package: Any) -> None:
    """Import LeRobot's devices, which register themselves; those whose drivers are missing stay unknown."""
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.ispkg:
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                _logger.debug("%s is not installed: %s", module.name, error)
