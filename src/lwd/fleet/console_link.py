"""The robot's side of the console: poses out while somebody watches, operators' commands in.

Nothing here makes a robot wait: the robots' thread leaves its newest poses, this side sends them when it can.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
from pydantic import ValidationError

from lwd.errors import ControlRefused, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.command_age import require_fresh
from lwd.fleet.command_gate import CommandGate
from lwd.fleet.complaints import Complaints
from lwd.fleet.messages import (
    WATCH_SUBJECT,
    ControlCommand,
    ControlState,
    WatchRequest,
    command_subject,
    control_subject,
    poses_subject,
    view_subject,
)
from lwd.fleet.poses import PoseFrame, encode_frame, encode_pictures
from lwd.fleet.receiving import Mute
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.views import Scene, view_message
from lwd.fleet.watches import Watches
from lwd.operators.remote import ControlView, RemoteOperator
from lwd.robots.protocol import BodyPoses
from lwd.types import ByteArray, Outcome

_STATE_EVERY_S = 1.0
_LEASED_STATE_EVERY_S = 0.1
"""The same of a robot under a lease: its operator's commands must say what they have just seen."""
_REFUSED_EVERY_S = 1.0
"""How often whoever asks for no answer is told why nothing is done."""
_LEAST_VIEW_HZ = 10.0
"""Views a second that whoever drives gets of the slowest robot, so that no dead-man's switch waits for them."""
_WATCH_FLOOD_HZ = 500.0
"""Thirty-two consoles repeat their request each second; beyond this somebody floods."""
_MOVING = frozenset({"resume", "drive", "jog"})
_LABELS: dict[str, Outcome | None] = {"success": Outcome.SUCCESS, "failure": Outcome.FAILURE, "discard": None}

_logger = logging.getLogger(__name__)


class ConsoleLink:
    """Links the remote operators of one host to the bus.

    `is_due`, `show`, `is_view_due`, `show_view` and `note_fault` are the robots' thread's.
    """

    def __init__(self, host_id: str, operators: Mapping[str, RemoteOperator]) -> None:
        self._host_id = host_id
        self.latch = StopLatch()
        """While it is set nobody drives; the host's own (`HostNetwork`)."""
        self._operators = dict(operators)
        for robot_id, operator in operators.items():
            operator.on_change = functools.partial(self.note_change, robot_id)
        self._watches = Watches(self._operators)
        self._complaints = Complaints(_logger)
        self._due_s: dict[str, float] = {}
        self._frames: dict[str, bytes] = {}
        self._pictures: dict[str, tuple[int, float, Mapping[str, ByteArray]]] = {}
        self._unseen: set[str] = set()
        """Robots whose pictures cannot be sent, which was said once."""
        self._view_due_s: dict[str, float] = {}
        self._views: dict[str, tuple[Scene, ControlView]] = {}
        self._faults: dict[str, str] = {}
        self._alarm = ""
        self._changed: set[str] = set()
        self._refused_s: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    @property
    def is_watched(self) -> bool:
        """Whether any console looks at the fleet."""
        return bool(self._watches)

    def is_due(self, robot_id: str) -> bool:
        """Whether somebody wants this robot's poses now."""
        return robot_id in self._watches.pose_hz and time.monotonic() >= self._due_s.get(robot_id, 0.0)

    def show(self, robot_id: str, step: int, poses: BodyPoses) -> None:
        """Leave a robot's newest poses; what was not sent yet is replaced."""
        self._plan_next(robot_id)
        self._frames[robot_id] = encode_frame(PoseFrame(robot_id=robot_id, step=step, time_s=time.time(), poses=poses))
        self._ring()

    def show_pictures(self, robot_id: str, step: int, pictures: Mapping[str, ByteArray]) -> None:
        """Leave what a robot's cameras see, for one that cannot be drawn from poses; encoded when it is sent."""
        self._plan_next(robot_id)
        # Copies: an environment may draw its next picture into the same memory.
        copies = {camera: np.array(pixels) for camera, pixels in pictures.items()}
        self._pictures[robot_id] = (step, time.time(), copies)
        self._ring()

    def is_view_due(self, robot_id: str) -> bool:
        """Whether an operator elsewhere wants to see what this robot's own operator would see."""
        return robot_id in self._watches.view_hz and time.monotonic() >= self._view_due_s.get(robot_id, 0.0)

    def show_view(self, scene: Scene) -> None:
        """Leave a robot's newest view; sent at twice its rate at most, so that none is much older than a step."""
        robot_id = scene.view.robot_id
        hz = min(
            max(2 * scene.embodiment.control_hz, _LEAST_VIEW_HZ), self._watches.view_hz.get(robot_id, _LEAST_VIEW_HZ)
        )
        self._view_due_s[robot_id] = time.monotonic() + 1 / hz
        # Who controls it now, not when it is sent: an old episode's view must not tell of the hold before the next one.
        self._views[robot_id] = (scene, self._operators[robot_id].view())
        self._ring()

    def note_fault(self, robot_id: str, fault: str) -> None:
        """Tell why a robot rests; empty: it works again."""
        if self._faults.get(robot_id, "") != fault:
            self._faults[robot_id] = fault
            self.note_change(robot_id)

    def note_alarm(self, alarm: str) -> None:
        """Tell why all robots of the host hold; empty: they need not. Their own faults are told afterwards again."""
        self._alarm = alarm
        self._changed.update(self._operators)
        self._ring()

    def note_change(self, robot_id: str) -> None:
        """Tell watchers that the state of control of a robot has changed."""
        self._changed.add(robot_id)
        self._ring()

    def _plan_next(self, robot_id: str) -> None:
        # From the time it was due, not from now: else each delay would add to the interval.
        due_s = self._due_s.get(robot_id, 0.0) + 1 / self._watches.pose_hz.get(robot_id, 1.0)
        self._due_s[robot_id] = max(time.monotonic(), due_s)

    def _ring(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the host ends
                self._loop.call_soon_threadsafe(self._wake.set)

    async def attach(self, bus: Bus) -> None:
        """Listen for consoles and for commands on a new connection."""

        async def command(message: ControlCommand, inbox: str) -> None:
            await self._on_command(bus, message, inbox)

        mute = Mute(above_hz=_WATCH_FLOOD_HZ, on_mute=self._watches.hold)
        await bus.subscribe(WATCH_SUBJECT, WatchRequest, self._on_watch, mute=mute)
        for robot_id, operator in self._operators.items():
            gate = CommandGate(lambda operator=operator: operator.view().client_id)  # type: ignore[misc]
            await bus.subscribe_calls(command_subject(robot_id), ControlCommand, command, admits=gate.admits)

    async def run(self, bus: Callable[[], Bus | None]) -> None:
        """Send what changed, for ever."""
        self._loop = asyncio.get_running_loop()
        next_states_s = next_leased_s = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEASED_STATE_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            now_s = time.monotonic()
            self._watches.forget()
            connection = bus()
            if connection is None or not self._watches:
                continue
            if now_s >= next_states_s:
                self._changed.update(self._operators)
                next_states_s = now_s + _STATE_EVERY_S
            if now_s >= next_leased_s:
                self._changed.update(name for name, operator in self._operators.items() if operator.view().lease)
                next_leased_s = now_s + _LEASED_STATE_EVERY_S
            with suppress(ServiceError):
                await self._send(connection)

    async def _send(self, bus: Bus) -> None:
        frames, self._frames = self._frames, {}
        pictures, self._pictures = self._pictures, {}
        views, self._views = self._views, {}
        changed, self._changed = self._changed, set()
        for robot_id, (scene, control) in views.items():
            try:
                message = view_message(scene, control)
            except ValidationError as error:
                _logger.warning("robot %s: its view is not sent: %s", robot_id, error.errors()[0]["msg"])
                continue
            await bus.publish(view_subject(robot_id), message)
        for robot_id, frame in frames.items():
            await bus.publish_bytes(poses_subject(robot_id), frame)
        for robot_id in changed & self._operators.keys():
            await bus.publish(control_subject(robot_id), self._state(robot_id))
        # Last: who is in control must not wait for pictures, nor be lost with one that cannot be encoded.
        for robot_id, seen in pictures.items():
            try:
                frame = await asyncio.to_thread(encode_pictures, robot_id, *seen)
            except ServiceError as error:
                if robot_id not in self._unseen:
                    self._unseen.add(robot_id)
                    _logger.warning("nobody sees robot %s: %s", robot_id, error)
                continue
            await bus.publish_bytes(poses_subject(robot_id), frame)

    async def _on_watch(self, request: WatchRequest) -> None:
        if self._watches.note(request):
            self._changed.update(self._operators)
            self._wake.set()

    async def _on_command(self, bus: Bus, command: ControlCommand, inbox: str) -> None:
        operator = self._operators.get(command.robot_id)
        if operator is None:
            return
        refused = ""
        before = operator.view()
        try:
            if command.verb in _MOVING and (reason := self.latch.reason):
                raise ControlRefused(f"{reason}: nothing moves until it is released")
            require_fresh(command, time.monotonic())
            _obey(operator, command)
        except ControlRefused as error:
            refused = str(error)
            self._complaints.warn(
                f"{command.robot_id} {command.client_id}",
                "robot %s: %s of %s refused: %s",
                *(command.robot_id, command.verb, command.operator_id, error),
                level=logging.INFO,
            )
        after = operator.view()
        if (before.phase, before.lease, before.label) != (after.phase, after.lease, after.label):
            _logger.info("robot %s: %s by %s", command.robot_id, command.verb, command.operator_id)
            self.note_change(command.robot_id)
        if inbox or command.request_id or (refused and self._may_complain(command.robot_id)):
            # Only who has asked knows the inbox: nobody else reads the answer, nor gives another one.
            subject = inbox or control_subject(command.robot_id)
            with suppress(ServiceError):
                await bus.publish(subject, self._state(command.robot_id, command.request_id, refused))

    def _may_complain(self, robot_id: str) -> bool:
        """Whether a refusal is told that nobody waits for; thirty commands a second need no thirty."""
        now_s = time.monotonic()
        if now_s < self._refused_s.get(robot_id, 0.0):
            return False
        self._refused_s[robot_id] = now_s + _REFUSED_EVERY_S
        return True

    def _state(self, robot_id: str, request_id: str = "", refused: str = "") -> ControlState:
        view = self._operators[robot_id].view()
        return ControlState(
            robot_id=robot_id,
            host_id=self._host_id,
            phase=view.phase.value,
            lease=view.lease,
            operator_id=view.operator_id,
            client_id=view.client_id,
            reason=view.reason,
            help_reason=view.help_reason,
            help_for_s=view.help_for_s,
            label=view.label,
            fault=(self._alarm or self._faults.get(robot_id, ""))[:500],
            request_id=request_id,
            refused=refused[:500],
            waits=view.waits,
            robot_time_s=time.monotonic(),
        )


def _obey(operator: RemoteOperator, command: ControlCommand) -> None:
    match command.verb:
        case "take":
            operator.take(command.operator_id, command.client_id)
        case "drive":
            operator.drive(command.lease, command.sequence, np.array(command.action, dtype=np.float32))
        case "jog":
            operator.jog(command.lease, command.sequence, np.array(command.action, dtype=np.float32))
        case "abandon":
            operator.abandon(command.client_id)
        case "success" | "failure" | "discard":
            operator.end(command.lease, _LABELS[command.verb])
        case _:
            operator.apply(command.verb, command.lease)
