"""One LeRobot device, asked by one thread at a time: the robots' thread steps it, a watchdog's thread may hold it."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from lerobot.robots import Robot as Device

from lwd import lerobot_parts
from lwd.driving import Driving
from lwd.errors import RobotFault
from lwd.matching import match
from lwd.robots.limits import checked_action
from lwd.types import Embodiment, FloatArray, TokenSpec

BUSY_S = 0.5
"""For so long `hold` waits for another thread's transaction to end; LeRobot's cameras take up to .2 s for a frame."""

_logger = logging.getLogger(__name__)


class LeRobotDriver:
    """Names and order of a device's columns, its last command and its last measurement."""

    def __init__(self, device: Device, embodiment: Embodiment) -> None:
        """Connect nothing yet.

        Raises:
            ConfigError: if the device's features do not fit the embodiment.
        """
        self.device, self._embodiment = device, embodiment
        found = _described(device, embodiment)
        fit = match(embodiment, found)
        # In the embodiment's order: LeRobot's dictionaries have none.
        self.joints = tuple(found.state_tokens[0].names[place] for place in fit.state_order)
        self.actions = tuple(found.action_names[place] for place in fit.action_order)
        self.cameras = fit.cameras
        """The embodiment's names of the cameras -> the device's."""
        self._lock = threading.Lock()
        self._measured_S: FloatArray | None = None
        self._commanded_A: FloatArray | None = None
        self._held_A: FloatArray | None = None
        """What `hold` sends until another command: measured once, else an arm would sink a little with each hold."""
        self._found_held: bool | None = None
        """Whether its motors had torque before it was connected; None: nobody knows."""
        self.holds = 0
        """How often the device was held, by whatever thread."""

    @property
    def was_moved(self) -> bool:
        """Whether it was sent anything, since its motors were let go: an arm may be in the air."""
        return self._commanded_A is not None

    @property
    def stands_as_found(self) -> bool:
        """Whether it was sent nothing, and its motors are not known to have had torque before it was connected."""
        return not self.was_moved and self._found_held is not True

    def connect(self) -> None:
        """Connect if necessary; what is open of a device of which a part was lost is closed first.

        Motors that have torque keep it. After a failure nothing is open.

        Raises:
            RobotFault: if the device does not answer, or needs calibration.
        """
        with self._lock:
            if lerobot_parts.is_open(self.device):
                return
            if lerobot_parts.anything_open(self.device):
                lerobot_parts.release(self.device, let_go=False)
            # Measured anew: somebody may have moved it meanwhile.
            self._held_A = self._measured_S = None
            # Never calibrate here: it asks questions at a terminal.
            self._found_held = self._ask(
                lambda: lerobot_parts.connect(self.device, may_let_go=not self.was_moved), "connect"
            )

    def observe(self) -> tuple[FloatArray, Mapping[str, Any]]:
        """Return the joints (S,) and everything that the device observes.

        Raises:
            RobotFault: if the device does not answer, or a number is not finite.
        """
        with self._lock:
            return self._observe()

    def send(self, action_A: FloatArray) -> FloatArray:
        """Send an action (A,); return what the device says that it executes.

        Raises:
            ActionRejected: if it is not finite; nothing is sent.
            RobotFault: if the device does not answer.
        """
        with self._lock:
            return self._command(action_A)

    def send_unless_held(self, action_A: FloatArray, holds: int) -> bool:
        """Send an action, unless the device was held since it counted `holds`. Returns whether it was sent.

        Raises:
            RobotFault: as `send`.
        """
        with self._lock:
            if self.holds != holds:
                return False
            self._command(action_A)
            return True

    def _command(self, action_A: FloatArray) -> FloatArray:
        # Before it is sent: of a call that fails nobody knows what the motors got.
        self._commanded_A, self._held_A = checked_action(action_A, self._embodiment), None
        self._commanded_A = self._send(self._commanded_A)
        return self._commanded_A

    def hold(self, driving: Driving) -> None:
        """Send what stands still; nothing, if nothing was sent before. See `lwd.robots.protocol.Robot.hold`.

        Raises:
            RobotFault: if the device does not answer, or another thread's transaction does not end.
        """
        # At once: whoever is on the way home sends nothing more, also while this waits.
        self.holds += 1
        if not self._lock.acquire(timeout=BUSY_S):
            raise RobotFault(
                f"{self.device.name} cannot be held: a call of its driver has not returned for {BUSY_S:g} s; it may "
                "move on: switch it off"
            )
        try:
            if self._commanded_A is None:
                return
            if self._held_A is None:
                self._held_A = self._still(driving)
            self._send(self._held_A)
        finally:
            self._lock.release()

    def let_go(self) -> None:
        """Disconnect with the motors' torque off. Never raises: what fails is logged."""
        self._release(let_go=True)
        self._commanded_A = self._held_A = None

    def close(self, driving: Driving, *, let_go: bool) -> None:
        """Hold, then disconnect everything; never raises for a device that does not answer, but logs it.

        Args:
            let_go: whether the motors' torque goes off, as far as LeRobot has a say in it.
        """
        try:
            if lerobot_parts.is_open(self.device):
                self.hold(driving)
        except RobotFault as error:
            _logger.error("%s", error)
        self._release(let_go=let_go)

    def _release(self, *, let_go: bool) -> None:
        # Without the lock, too: a call that hangs must not keep the other parts open.
        locked = self._lock.acquire(timeout=BUSY_S)
        try:
            was_open = lerobot_parts.anything_open(self.device)
            if was_open:
                lerobot_parts.release(self.device, let_go=let_go)
            elif let_go and self.was_moved:
                lerobot_parts.let_go_of_closed(self.device)
        finally:
            if locked:
                self._lock.release()

    def _still(self, driving: Driving) -> FloatArray:
        moves_on = any(not axis.absolute for axis in driving.axes)
        if moves_on and self._measured_S is not None:
            # Wheels first: cameras may make the measurement late.
            self._send(self._standing(driving, self._measured_S))
        if any(axis.absolute and axis.measured is not None for axis in driving.axes):
            try:
                self._observe()
            except RobotFault as error:
                _logger.warning("%s; it is held where it was measured last", error)
        return self._standing(driving, self._measured_S)

    def _standing(self, driving: Driving, measured_S: FloatArray | None) -> FloatArray:
        if measured_S is None:
            measured_S = np.full(len(self.joints), np.nan, np.float32)
        commanded_A = self._commanded_A
        still_A = driving.still(measured_S, commanded_A)
        if commanded_A is None or still_A is None:
            raise RobotFault(f"{self.device.name} cannot be held: nobody knows where it stands")
        # Never measured: the last command is all that is known.
        return np.where(np.isfinite(still_A), still_A, commanded_A)

    def _observe(self) -> tuple[FloatArray, Mapping[str, Any]]:
        seen: Mapping[str, Any] = self._ask(self.device.get_observation, "observe")
        state_S = np.array([float(seen[name]) for name in self.joints], np.float32)
        if not np.isfinite(state_S).all():
            wrong = [name for name, value in zip(self.joints, state_S, strict=True) if not np.isfinite(value)]
            raise RobotFault(f"{self.device.name} measures no finite number at {', '.join(wrong)}: check that joint")
        self._measured_S = state_S
        return state_S, seen

    def _send(self, action_A: FloatArray) -> FloatArray:
        # Homing and holding come here without a session, which checks what policies and people do.
        command = dict(zip(self.actions, map(float, checked_action(action_A, self._embodiment)), strict=True))
        sent = self._ask(lambda: self.device.send_action(command), "take an action")
        # Robots with a limit of their own (max_relative_target) do less than they are told.
        return np.array([sent.get(name, command[name]) for name in self.actions], np.float32)

    def _ask(self, call: Callable[[], Any], what: str) -> Any:
        try:
            return call()
        except RobotFault:
            raise
        except (Exception, SystemExit) as error:  # drivers raise nearly anything
            name, why = lerobot_parts.name_of(self.device), f"{type(error).__name__}: {error}"
            raise RobotFault(f"{name} cannot {what} ({why}): check its power and cables") from error


def _described(device: Device, embodiment: Embodiment) -> Embodiment:
    """Return what a device says of itself; its rate and its limits are the embodiment's."""
    features = device.observation_features
    joints, actions = tuple(n for n, kind in features.items() if not isinstance(kind, tuple)), device.action_features
    return Embodiment(
        name=f"LeRobot's {device.name}",
        control_hz=embodiment.control_hz,
        state_tokens=(TokenSpec(name="state", size=len(joints), names=joints),),
        action_low=(-1.0,) * len(actions),
        action_high=(1.0,) * len(actions),
        cameras={name: (kind[0], kind[1]) for name, kind in features.items() if isinstance(kind, tuple)},
        action_names=tuple(actions),
    )
