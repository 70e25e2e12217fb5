"""LeRobot's teleoperators as an `Operator`: gamepads, keyboards and leader arms.

Gamepads and keyboards say themselves when a person acts, and how an episode ended. A leader arm takes over when
it is moved and lets go when it rests; labels then come from a second device.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lerobot.teleoperators import Teleoperator
from lerobot.teleoperators.utils import TeleopEvents

from lwd import lerobot_parts
from lwd.errors import ConfigError, OperatorFault, RobotFault
from lwd.matching import column_order
from lwd.operators.protocol import OBSERVE, Command, Intent, RobotView
from lwd.types import Embodiment, FloatArray, Outcome

_GRIPPER = "gripper"
MOVED = 0.02
"""Part of a column's range by which a leader arm has moved that is no noise."""
REST_STEPS = 15
"""Control steps without movement after which a leader arm lets go."""


class LeRobotOperator:
    """Asks a device at every step. `connect` connects it, and `begin` if nobody did; one that failed, anew."""

    def __init__(
        self,
        device: Teleoperator,
        embodiment: Embodiment,
        action_names: Sequence[str] | None = None,
        *,
        events: Teleoperator | None = None,
    ) -> None:
        """Connect nothing yet.

        Args:
            action_names: of the robot's action, in its order; None: the embodiment's; where that has none either,
                the device's own, in its order.
            events: where labels come from, if not from the device itself.
        Raises:
            ConfigError: if the device gives other columns than the robot takes.
        """
        self._device, self._events = device, events or device
        given = _columns(device)
        self._names = given if action_names is None else tuple(action_names)
        if action_names is None and len(given) == embodiment.action_size:
            order = column_order(f"the action of teleoperator {device.name}", embodiment.action_names, given)
            self._names = tuple(given[place] for place in order)
        if len(self._names) != embodiment.action_size:
            raise ConfigError(
                f"teleoperator {device.name} gives {', '.join(given)}; {embodiment.name} takes "
                f"{embodiment.action_size} numbers: use a leader arm of the same kind, or a robot that takes the "
                "device's own commands"
            )
        self._low = np.asarray(embodiment.action_low, np.float32)
        self._high = np.asarray(embodiment.action_high, np.float32)
        if missing := [name for name in self._names if name not in given]:
            raise ConfigError(
                f"teleoperator {device.name} gives {', '.join(given)}; the action needs {', '.join(missing)}: use "
                "a leader arm of the same kind, or a robot that takes the device's own commands"
            )
        self._says_when = hasattr(device, "get_teleop_events")
        self._failed: set[int] = set()
        """The devices that did not answer when they were asked last."""
        self._rest_A: FloatArray | None = None
        self._still = REST_STEPS

    def connect(self) -> None:
        """Connect what is not connected, or did not answer; what is left of it is closed first.

        Raises:
            OperatorFault: if a device cannot be connected, or needs calibration. Of that one nothing is open then.
        """
        for one in self._devices:
            if lerobot_parts.is_open(one) and id(one) not in self._failed:
                continue
            if lerobot_parts.anything_open(one):
                lerobot_parts.release(one, let_go=True)
            self._ask(one, functools.partial(lerobot_parts.connect, one, may_let_go=True, let_go=True), "connect")

    def begin(self, view: RobotView, seed: int) -> None:
        """A new episode: the person lets go of the device first.

        Raises:
            OperatorFault: as `connect`.
        """
        self.connect()
        self._rest_A, self._still = None, REST_STEPS

    def poll(self, view: RobotView) -> Command:
        """Label if the person says how it ended; take over if the person acts.

        Raises:
            OperatorFault: if a device does not answer, or answers what is no action.
        """
        # In this order: LeRobot's keyboard forgets the pressed keys when it is asked for events.
        action = self._ask(self._device, self._device.get_action, "say what to do")
        events: Mapping[Any, Any] = {}
        if hasattr(self._events, "get_teleop_events"):
            events = self._ask(self._events, self._events.get_teleop_events, "say how the episode ends") or {}
        if (outcome := _label(events)) is not None:
            return Command(intent=Intent.LABEL, outcome=outcome)
        action_A = self._ask(self._device, lambda: self._numbers(action), "say all that the robot needs")
        acts = bool(events.get(TeleopEvents.IS_INTERVENTION)) if self._says_when else self._is_moved(action_A)
        return Command(intent=Intent.TAKE_OVER, action=action_A) if acts else OBSERVE

    def close(self) -> None:
        """Release every device; errors are logged."""
        for one in self._devices:
            if lerobot_parts.anything_open(one):
                lerobot_parts.release(one, let_go=True)

    @property
    def _devices(self) -> tuple[Teleoperator, ...]:
        return tuple({id(one): one for one in (self._device, self._events)}.values())

    def _ask(self, device: Teleoperator, call: Callable[[], Any], what: str) -> Any:
        self._failed.add(id(device))
        try:
            answer = call()
        except RobotFault as error:
            raise OperatorFault(str(error)) from error
        except (Exception, SystemExit) as error:  # drivers raise nearly anything
            raise OperatorFault(
                f"{lerobot_parts.name_of(device)} cannot {what} ({type(error).__name__}: {error}): check its power and "
                "cables"
            ) from error
        self._failed.discard(id(device))
        return answer

    def _numbers(self, action: Mapping[str, Any]) -> FloatArray:
        action_A = np.array([self._number(name, action) for name in self._names], np.float32)
        if not np.isfinite(action_A).all():
            raise ValueError(f"it says {dict(zip(self._names, map(float, action_A), strict=True))}")
        return action_A

    def _number(self, name: str, action: Mapping[str, Any]) -> float:
        value = float(action[name])
        # Gamepad and keyboard: 0 closes, 1 stays, 2 opens. Robots that take such commands close at the upper limit.
        if name == _GRIPPER and self._says_when:
            column = self._names.index(name)
            middle, half = (self._high + self._low)[column] / 2, (self._high - self._low)[column] / 2
            return float(middle + (1 - value) * half)
        return value

    def _is_moved(self, action_A: FloatArray) -> bool:
        if self._rest_A is None:
            self._rest_A = action_A
        if (np.abs(action_A - self._rest_A) > MOVED * (self._high - self._low)).any():
            self._rest_A, self._still = action_A, 0
        else:
            self._still += 1
        return self._still < REST_STEPS


def _label(events: Mapping[Any, Any]) -> Outcome | None:
    """What LeRobot's events say of the end; an episode to be recorded anew is one whose end is unknown."""
    if events.get(TeleopEvents.SUCCESS):
        return Outcome.SUCCESS
    if events.get(TeleopEvents.RERECORD_EPISODE):
        return Outcome.TRUNCATED
    return Outcome.FAILURE if events.get(TeleopEvents.TERMINATE_EPISODE) else None


def _columns(device: Teleoperator) -> tuple[str, ...]:
    """The names of a device's action: LeRobot gives them as keys, or below `names`."""
    features = device.action_features
    return tuple(features["names"]) if "names" in features else tuple(features)
