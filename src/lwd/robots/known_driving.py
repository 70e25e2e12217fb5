"""How environments are driven by hand that many use."""

from collections.abc import Callable

from lwd.driving import Driving, drive_axis, hand_axis, relative_driving
from lwd.robots.driving_options import DrivingOptions
from lwd.types import Embodiment

_JOINTS = ("waist", "shoulder", "elbow", "forearm roll", "wrist angle", "wrist rotate", "gripper")
_POSITIONS = ("agent_pos", "state")
"""What Gymnasium and LeRobot call the vector that holds the same numbers as an action of positions."""


def known_driving(kind: str, options: DrivingOptions | None) -> Callable[[Embodiment], Driving]:
    """Return how robots of an environment are driven: as the options say, else as the environment is known.

    Args:
        kind: the package of a Gymnasium environment, or LeRobot's type.
    """
    if options is not None:
        return options.of
    match kind.removeprefix("gym_"):
        case "aloha":
            return _aloha
        case "pusht":
            return _pusht
        case "libero" | "libero_plus":
            return _libero
        case "metaworld":
            from lwd.robots.metaworld import metaworld_driving

            return metaworld_driving
    return relative_driving


def _aloha(embodiment: Embodiment) -> Driving:
    return _positions(embodiment, tuple(f"{side} {joint}" for side in ("left", "right") for joint in _JOINTS))


def _pusht(embodiment: Embodiment) -> Driving:
    return _positions(embodiment, ("x", "y"))


def _positions(embodiment: Embodiment, labels: tuple[str, ...]) -> Driving:
    size = embodiment.action_size
    found = [token.name for token in embodiment.state_tokens if token.name in _POSITIONS and token.size == size]
    return DrivingOptions(labels=labels, absolute=True, measured=found[0] if found else None).of(embodiment)


def _libero(embodiment: Embodiment) -> Driving:
    moves = tuple(drive_axis(label, -1, 1) for label in ("x", "y", "z", "roll", "pitch", "yaw"))
    return Driving(control_hz=embodiment.control_hz, axes=(*moves, hand_axis()))
