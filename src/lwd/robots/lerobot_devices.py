"""LeRobot's robots and teleoperators by their type, made from LeRobot's own configuration."""

import importlib
import logging
import pkgutil
from collections.abc import Mapping
from typing import Any

import draccus
import lerobot.robots
import lerobot.teleoperators
from lerobot.robots import Robot as Device
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig, make_teleoperator_from_config

from lwd.errors import ConfigError

_logger = logging.getLogger(__name__)


def make_device(kind: str, config: Mapping[str, Any]) -> Device:
    """Build LeRobot's robot of a type such as so101_follower (or so101, for short).

    Raises:
        ConfigError: if LeRobot has no such robot, or refuses its configuration.
    """
    _load_all(lerobot.robots)
    known = RobotConfig.get_known_choices()
    name = next((name for name in (kind, f"{kind}_follower") if name in known), None)
    if name is None:
        raise ConfigError(f"LeRobot has no robot {kind!r}; it has: {', '.join(sorted(known))}")
    try:
        return make_robot_from_config(draccus.decode(RobotConfig, {"type": name, **config}))
    except Exception as error:  # draccus' own, and those of missing drivers
        raise ConfigError(f"LeRobot cannot make robot {name} ({error}): correct the section `robot`") from error


def _load_all(package: Any) -> None:
    """Import LeRobot's devices, which register themselves; those whose drivers are missing stay unknown."""
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.ispkg:
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                _logger.debug("%s is not installed: %s", module.name, error)


def make_teleoperator(config: Mapping[str, Any]) -> Teleoperator:
    """Build LeRobot's teleoperator from its configuration, with its `type`.

    Raises:
        ConfigError: if LeRobot has no such device, or refuses its configuration.
    """
    _load_all(lerobot.teleoperators)
    known = TeleoperatorConfig.get_known_choices()
    if config.get("type") not in known:
        raise ConfigError(f"LeRobot has no teleoperator {config.get('type')!r}; it has: {', '.join(sorted(known))}")
    try:
        return make_teleoperator_from_config(draccus.decode(TeleoperatorConfig, dict(config)))
    except Exception as error:  # draccus' own, and those of missing drivers
        raise ConfigError(
            f"LeRobot cannot make teleoperator {config['type']} ({error}): correct its section"
        ) from error
