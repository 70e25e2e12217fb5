"""LeRobot's plug-ins: installed packages whose names say that they bring robots, teleoperators or cameras."""

import functools
import importlib
import importlib.metadata
import logging

PREFIXES = ("lerobot_robot_", "lerobot_teleoperator_", "lerobot_camera_")
"""Of the packages' names, as in LeRobot's `register_third_party_plugins`."""

_logger = logging.getLogger(__name__)


@functools.cache
def load_plugins() -> tuple[str, ...]:
    """Import every installed plug-in once, which registers its types; return the names of those that could not be.

    One by one, where LeRobot's `register_third_party_plugins` imports all at once: that one ends at the first plug-in
    that exits, and finds only packages whose published name has underscores. One that cannot be imported (its driver is
    missing, say) is logged with its name and the reason, and the others have their turn.
    """
    failed = []
    for name in sorted(_installed()):
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a plug-in raises nearly anything
            _logger.warning("LeRobot's plug-in %s cannot be loaded (%s: %s)", name, type(error).__name__, error)
            failed.append(name)
    return tuple(failed)


def _installed() -> set[str]:
    found = set()
    for distribution in importlib.metadata.distributions():
        # None: a directory that was left behind half removed.
        metadata = distribution.metadata
        name = "" if metadata is None else str(metadata["Name"] or "").replace("-", "_")
        if name.lower().startswith(PREFIXES):
            found.add(name)
    return found
