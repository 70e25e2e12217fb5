"""What an operator does at a desk: helps the robots that ask for it, or looks after one with a device.

Any `Operator` can sit there. Its wish to take over becomes lease, resume and drive; its observing hands the robot back.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from lwd.errors import ConfigError, ControlRefused, RobotFault, ServiceError
from lwd.fleet.desk import Desk
from lwd.fleet.messages import ControlVerb, OperatorView
from lwd.fleet.views import robot_view, viewed_embodiment
from lwd.operators.protocol import Command, Intent, Operator
from lwd.types import Embodiment, FloatArray, Outcome

_LOOK_EVERY_S = 0.1
_SILENT_S = 3.0
"""A robot that sends no view for so long is between two episodes, or its host is gone: it is handed back."""
_JOIN_WITHIN_S = 30.0
"""A host that has just started tries its policy in a process of its own before the first episode begins."""
_KEEP_EVERY_S = 1.0
_TRY_AGAIN_S = 1.0
_MOST_REST_S = 30.0
_WORKED_S = 60.0
"""A device that answered so long has its faults forgiven."""
_BEGINS_WITHIN_S = 2.0
"""After `resume` a robot says within this time that it is driven; a view from before says that it holds."""
_VERBS: dict[Outcome, ControlVerb] = {
    Outcome.SUCCESS: "success",
    Outcome.FAILURE: "failure",
    # To be recorded anew: nothing of it is kept.
    Outcome.TRUNCATED: "discard",
}

_logger = logging.getLogger(__name__)


async def help_the_fleet(desk: Desk, operator: Operator, stop: asyncio.Event) -> None:
    """Take the robot that has waited longest for help, let the operator drive it, hand it back; until `stop`.

    A robot that another operator was quicker to take is left to them, and the next in the queue has its turn.

    Raises:
        ServiceError: if the bus refuses us for good.
    """
    while not stop.is_set():
        desk.require_bus()
        for robot_id in desk.asking():
            try:
                await attend(desk, robot_id, operator, stop)
                desk.note_helped(robot_id)
                break
            except ControlRefused as error:
                _logger.info("robot %s: %s", robot_id, error)
            except ServiceError as error:
                _logger.warning("robot %s: %s", robot_id, error)
                await asyncio.sleep(_TRY_AGAIN_S)
        else:
            await desk.wait(_LOOK_EVERY_S)


async def look_after(
    desk: Desk,
    robot_id: str,
    make: Callable[[Embodiment], AbstractContextManager[Operator]],
    stop: asyncio.Event,
) -> None:
    """Take one robot whenever the person at the device acts, and hand it back when they let go; until `stop`.

    A device that stops answering leaves the robot holding, until somebody takes it; it is connected anew, after rests
    that grow, and may take the robot again.

    Args:
        make: connects the device, for the robot's embodiment; leaving it disconnects.
    Raises:
        ConfigError: if the device does not fit the robot.
        RobotFault: if the device cannot be connected at the first try.
        ServiceError: if the robot is not there.
    """
    desk.look_at(robot_id)
    view = await desk.next_view(_JOIN_WITHIN_S)
    if view is None:
        raise ServiceError(
            f"robot {robot_id} shows nothing for {_JOIN_WITHIN_S:g} s: is its host running, with an episode?"
        )
    faults, was_connected = 0, False
    while not stop.is_set():
        begun_s = time.monotonic()
        try:
            with make(viewed_embodiment(view)) as operator:
                operator.begin(robot_view(view), 0)
                was_connected = True
                await _follow(desk, robot_id, operator, stop)
        except RobotFault as error:
            if not was_connected:
                raise
            faults = 1 if time.monotonic() - begun_s > _WORKED_S else faults + 1
            rest_s = min(_TRY_AGAIN_S * faults, _MOST_REST_S)
            _logger.error("robot %s: %s; the device is connected anew in %g s", robot_id, error, rest_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rest_s)
            desk.require_bus()
            desk.look_at(robot_id)
            view = await desk.next_view(_LOOK_EVERY_S) or view


async def _follow(desk: Desk, robot_id: str, operator: Operator, stop: asyncio.Event) -> None:
    """Ask a connected device at each step, and take the robot whenever the person at it acts; until `stop`."""
    _logger.info("robot %s: %s may take it over", robot_id, desk.operator_id)
    pace = _Pace()
    refused = False
    while not stop.is_set():
        desk.require_bus()
        view = await desk.next_view(_LOOK_EVERY_S)
        if view is None or not pace.is_due(view):
            continue
        wish = operator.poll(robot_view(view))
        if wish.intent is Intent.OBSERVE:
            refused = False
        elif not refused:
            try:
                await attend(desk, robot_id, operator, stop, wish=wish, may_resume=False)
            except (ControlRefused, ServiceError) as error:
                _logger.warning("robot %s: %s (let go of the device, then try again)", robot_id, error)
                refused = True
            desk.look_at(robot_id)


async def attend(
    desk: Desk,
    robot_id: str,
    operator: Operator,
    stop: asyncio.Event,
    *,
    wish: Command | None = None,
    may_resume: bool = True,
) -> None:
    """Take a robot over, let the operator drive it, and hand it back when they observe again or its episode ends.

    Args:
        wish: the operator's first command, of one who knows the episode already; None: it begins with the robot's view.
        may_resume: whether it drives on by itself after the dead-man's switch has held the robot. Else the person
            must let go of the device first, which hands the robot back.
    Raises:
        ControlRefused: if somebody else has the robot, or the lease is lost.
        ServiceError: if the robot does not answer. It holds by then.
    """
    lease = (await desk.ask(robot_id, "take")).lease
    _logger.info("robot %s: taken over by %s", robot_id, desk.operator_id)
    try:
        desk.look_at(robot_id)
        await _Drive(desk, robot_id, lease, operator, may_resume=may_resume).run(wish, stop)
        await desk.ask(robot_id, "release", lease)
    except BaseException:
        # Also where this process was told to end at once: the robot holds until somebody takes it.
        with contextlib.suppress(ServiceError):
            await desk.tell(robot_id, "abandon")
        raise
    finally:
        desk.look_at("")
    _logger.info("robot %s: handed back by %s", robot_id, desk.operator_id)


class _Pace:
    """Asks an operator about once per control period, soon after each step."""

    def __init__(self) -> None:
        self._asked_s = 0.0
        self._step = -1

    def is_due(self, view: OperatorView) -> bool:
        now_s = time.monotonic()
        if now_s - self._asked_s < (1.0 if view.step == self._step else 0.5) / view.control_hz:
            return False
        self._asked_s, self._step = now_s, view.step
        return True


class _Drive:
    """One robot under one lease, until the operator hands it back."""

    def __init__(self, desk: Desk, robot_id: str, lease: int, operator: Operator, *, may_resume: bool) -> None:
        self._desk, self._robot_id, self._lease, self._operator = desk, robot_id, lease, operator
        self._may_resume = may_resume
        self._sequence = 0
        self._action: FloatArray | None = None
        self._alive_s = time.monotonic()
        self._resumed_s: float | None = None
        self._driven = self._labelled = self._held = False

    async def run(self, wish: Command | None, stop: asyncio.Event) -> None:
        """Drive until the operator observes, the episode has ended, or `stop`."""
        pace, episode_id, seen_s = _Pace(), "", time.monotonic()
        while not stop.is_set():
            view = await self._desk.next_view(_LOOK_EVERY_S)
            now_s = time.monotonic()
            if view is None:
                if (fault := self._desk.fault(self._robot_id)) and not self._may_resume:
                    # Not handed back, as a script hands its simulated robot back: a person must look at it first.
                    raise ServiceError(f"robot {self._robot_id} has failed: {fault}")
                if now_s - seen_s > _SILENT_S or (episode_id and self._desk.waits(self._robot_id)):
                    return
                continue
            seen_s = now_s
            if view.lease < self._lease:
                continue  # from before the take-over
            if view.lease != self._lease:
                raise ControlRefused(f"robot {self._robot_id} has been taken by somebody else")
            if not episode_id:
                episode_id = view.episode_id
                if wish is None:
                    self._operator.begin(robot_view(view), 0)
            if view.episode_id != episode_id:
                return
            if not self._labelled and (wish is not None or pace.is_due(view)):
                command, wish = wish or self._operator.poll(robot_view(view)), None
                if command.intent is Intent.OBSERVE:
                    return
                await self._obey(command)
            await self._act(view)

    async def _obey(self, command: Command) -> None:
        self._action = None
        if command.intent is Intent.TAKE_OVER:
            self._action = command.action
            if self._resumed_s is None:
                await self._resume()
        elif command.intent in (Intent.LABEL, Intent.DISCARD):
            if command.intent is Intent.LABEL and command.outcome not in _VERBS:
                raise ConfigError(f"outcome is {command.outcome}; an operator says success, failure or truncated")
            verb = "discard" if command.outcome is None else _VERBS[command.outcome]
            await self._desk.ask(self._robot_id, verb, self._lease)
            self._labelled = True

    async def _act(self, view: OperatorView) -> None:
        """Send the newest action, or a sign of life; notice the dead-man's switch."""
        now_s = time.monotonic()
        if self._action is not None and self._resumed_s is not None and not self._labelled:
            if view.phase == "human":
                self._driven = True
            elif self._driven or now_s - self._resumed_s > _BEGINS_WITHIN_S:
                if self._may_resume:
                    await self._resume()
                elif not self._held:
                    self._held = True
                    _logger.warning("robot %s holds: %s; let go of the device first", self._robot_id, view.reason)
            if not self._held:
                self._sequence += 1
                await self._desk.drive(view, self._sequence, self._action)
                self._alive_s = now_s
        if now_s - self._alive_s > _KEEP_EVERY_S:
            await self._desk.tell(self._robot_id, "keep", self._lease)
            self._alive_s = now_s

    async def _resume(self) -> None:
        await self._desk.ask(self._robot_id, "resume", self._lease)
        self._resumed_s, self._driven = time.monotonic(), False
