"""What a LeRobot device is made of: it is connected as a whole, and released part by part, whatever it says of itself.

LeRobot's `is_connected` is true when everything is (motor bus and each camera), and its `disconnect` refuses before. So
one camera that fails leaves a device that can neither be connected nor disconnected, with its motors on.
"""

import contextlib
import dataclasses
import inspect
import logging
import shlex
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lerobot.robots import Robot as Device

from lwd.errors import RobotFault

_DEPTH = 3
"""A pair of arms has arms, which have a bus and cameras."""
_READ_RETRIES = 3
_LEVER = "disable_torque_on_disconnect"

_TYPES: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()

_logger = logging.getLogger(__name__)


class NotCalibrated(RobotFault):
    """A device needs what only a person at a terminal can do."""


class Part(NamedTuple):
    """Something of a device that is opened and closed by itself."""

    name: str
    """Such as `bus`, `cameras.front` or `left_arm.bus`; empty: the device itself."""
    device: Any


def parts(device: Any) -> tuple[Part, ...]:
    """Return whatever of a device can be connected: buses, cameras, arms, and theirs."""
    found: list[Part] = []
    seen = {id(device)}

    def look(owner: Any, prefix: str, depth: int) -> None:
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            for label, one in _members(name, value):
                if id(one) not in seen and _can_be_open(one):
                    seen.add(id(one))
                    found.append(Part(prefix + label, one))
                    if depth > 1:
                        look(one, f"{prefix}{label}.", depth - 1)

    look(device, "", _DEPTH)
    return tuple(found)


def is_open(device: Any) -> bool:
    """Whether a device, or a part, says that it is connected; one that raises may be."""
    try:
        said = device.is_connected
        return bool(said() if callable(said) else said)
    except Exception:  # drivers raise nearly anything
        return True


def anything_open(device: Any) -> bool:
    """Whether a device, or any part of it, says that it is connected."""
    return any(is_open(part.device) for part in _all(device))


def has_lever(device: Any) -> bool:
    """Whether LeRobot lets one choose what the motors do without a connection."""
    return any(_has_setting(part.device) or _takes(part.device.disconnect, "disable_torque") for part in _all(device))


def holds(device: Any) -> bool | None:
    """Whether a motor of a connected device has torque; None: it cannot be asked."""
    known = None
    for part in _all(device):
        if callable(read := getattr(part.device, "sync_read", None)) and is_open(part.device):
            options = {"normalize": False, "num_retry": _READ_RETRIES}
            try:
                values = read("Torque_Enable", **{name: it for name, it in options.items() if _takes(read, name)})
                known = bool(known) or any(values.values())
            except Exception as error:  # of another kind of bus, or a lost packet
                _logger.debug("%s: torque cannot be read: %s", part.name, error)
    return known


def connect(device: Any, *, may_let_go: bool, let_go: bool = False) -> bool | None:
    """Connect a device without questions; return whether its motors had torque before (None: nobody knows).

    Motors that have torque keep it: LeRobot's `configure` would let go for as long as it writes. After a failure
    everything that was opened is released.

    Args:
        may_let_go: whether torque that connecting has turned on goes off again when it fails; motors that had torque
            before keep it.
        let_go: what disconnecting does later, unless `release` is told otherwise; also where the device is only
            garbage-collected.
    Raises:
        NotCalibrated: if the device is to be calibrated first.
        RobotFault: if it says after all that it is not connected.
        Exception: whatever the driver raises.
    """
    set_lever(device, let_go)
    held: list[bool | None] = []
    try:
        with _configured_gently(device, held):
            device.connect(**({"calibrate": False} if _takes(device.connect, "calibrate") else {}))
        if not is_open(device):
            raise RobotFault(f"{name_of(device)} says after connect() that it is not connected: is it plugged in?")
        if getattr(getattr(device, "gamepad", None), "running", True) is False:
            # LeRobot's logs it, and says then that it is connected and nobody presses anything.
            raise RobotFault(f"{name_of(device)} finds no gamepad: plug it in")
        calibrated = getattr(device, "is_calibrated", True)
        # A method at LeRobot's gamepad; None at its keyboard.
        if (calibrated() if callable(calibrated) else calibrated) is False:
            raise NotCalibrated(
                f"{name_of(device)} is not calibrated, or its motors are by another file than "
                f"{getattr(device, 'calibration_fpath', 'its own')}, and a host asks no questions: run "
                f"`{calibrate_command(device)}` at a terminal"
            )
    except BaseException:
        was_held = (True in held) if held else holds(device) is True
        release(device, let_go=may_let_go and not was_held)
        raise
    return held[0] if held else None


def release(device: Any, *, let_go: bool) -> None:
    """Close a device and every part of it, also those of a device that says it is not connected.

    Never raises: what goes wrong is logged with the part's name, and the others have their turn.

    Args:
        let_go: whether torque goes off; else it stays as it is, where LeRobot has a say in it (`has_lever`).
    """
    set_lever(device, let_go)
    everything = _all(device)
    # A device without the setting would close its bus as the bus likes.
    if not let_go and not any(_has_setting(part.device) for part in everything):
        everything = tuple(sorted(everything, key=lambda part: not _takes(part.device.disconnect, "disable_torque")))
    for part in everything:
        _release_one(device, part, let_go)
    for part in everything:
        if is_open(part.device):
            # Once more: its parts, or a lost packet, may have been in the way.
            _release_one(device, part, let_go)
        if is_open(part.device):
            _logger.error("%s is still connected: unplug it", _full_name(device, part))


def let_go_of_closed(device: Any) -> None:
    """Turn off the torque of motors whose bus has been closed meanwhile; logs what fails."""
    for part in parts(device):
        if _takes(part.device.disconnect, "disable_torque") and not is_open(part.device):
            try:
                part.device.connect()
            except Exception as error:  # drivers raise nearly anything
                _logger.error(
                    "%s cannot be reached, its motors may have torque (%s): switch its power off",
                    _full_name(device, part), error,
                )  # fmt: skip
            _release_one(device, part, True)


def set_lever(device: Any, let_go: bool) -> None:
    """Say what LeRobot's `disconnect` does with the torque, also one that nobody calls (`__del__`)."""
    for part in _all(device):
        if _has_setting(part.device):
            with contextlib.suppress(AttributeError):  # a frozen one stays as it is
                setattr(part.device.config, _LEVER, let_go)


def name_of(device: Any) -> str:
    """Return a device's type and id, as LeRobot's messages have them."""
    name = str(getattr(device, "name", "") or type(device).__name__)
    return f"{name} {device.id}" if getattr(device, "id", None) else name


def note_type(device: Any, kind: str) -> None:
    """Remember by which of LeRobot's types a device was made: some have one class for two (so100, so101)."""
    _TYPES[device] = kind


def calibrate_command(device: Any) -> str:
    """Return the command that calibrates a device, with the arguments that it was made from."""
    section = "robot" if isinstance(device, Device) else "teleop"
    config = device.config
    kind = _TYPES.get(device) or getattr(config, "type", device.name)
    options = [f"--{section}.type={kind}", *_options(config, section)]
    return shlex.join(["lerobot-calibrate", *options])


def _options(config: Any, prefix: str) -> list[str]:
    found = []
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found += _options(value, f"{prefix}.{field.name}")
        elif isinstance(value, (str, int, float, Path)) and value != field.default and field.name != _LEVER:
            found.append(f"--{prefix}.{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    return found


def _all(device: Any) -> tuple[Part, ...]:
    return Part("", device), *parts(device)


def _members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}.{key}", one) for key, one in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{name}.{number}", one) for number, one in enumerate(value))
    else:
        yield name, value


def _can_be_open(one: Any) -> bool:
    kind = type(one)
    is_device = hasattr(kind, "is_connected") or "is_connected" in getattr(one, "__dict__", {})
    return is_device and not isinstance(one, type) and callable(getattr(kind, "disconnect", None))


def _has_setting(device: Any) -> bool:
    return hasattr(getattr(device, "config", None), _LEVER)


def _takes(call: Callable[..., Any], argument: str) -> bool:
    try:
        return argument in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False


@contextlib.contextmanager
def _configured_gently(device: Any, held: list[bool | None]) -> Iterator[None]:
    """Let `configure` pass by motors that have torque; note whether they had, arm by arm."""
    changed = []
    for part in _all(device):
        one = part.device
        if isinstance(one, Device) and callable(getattr(one, "configure", None)):

            def configure(one: Any = one, original: Callable[[], None] = one.configure) -> None:
                held.append(holds(one))
                if held[-1]:
                    _logger.warning(
                        "%s has torque already, and keeps it: its motors are not configured anew (switch its power "
                        "off and on for settings that were changed)",
                        name_of(one),
                    )
                else:
                    original()

            one.configure = configure
            changed.append(one)
    try:
        yield
    finally:
        for one in changed:
            del one.configure


def _release_one(device: Any, part: Part, let_go: bool) -> None:
    one, was_open = part.device, is_open(part.device)
    try:
        _disconnect(one, let_go, was_open)
    except (Exception, SystemExit) as error:  # drivers raise nearly anything
        if not was_open:
            return  # most say so of what is closed
        _logger.error("%s cannot be disconnected (%s: %s)", _full_name(device, part), type(error).__name__, error)
        if let_go and is_open(one) and _takes(one.disconnect, "disable_torque"):
            _logger.error("%s: its torque could not be turned off: switch its power off", _full_name(device, part))
            _release_one(device, part, False)


def _disconnect(one: Any, let_go: bool, was_open: bool) -> None:
    # LeRobot's own refuses for a device of which only a part is open; what it wraps does not.
    unguarded = getattr(type(one).disconnect, "__wrapped__", None)
    call = one.disconnect if was_open or unguarded is None else unguarded.__get__(one)
    call(**({"disable_torque": let_go} if _takes(one.disconnect, "disable_torque") else {}))


def _full_name(device: Any, part: Part) -> str:
    return f"{name_of(device)}: {part.name}" if part.name else name_of(device)
