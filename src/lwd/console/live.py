"""One browser's WebSocket: the fleet's state and poses out, commands in.

Out goes the newest of everything, and only once the browser has acknowledged what came before: a slow browser sees
fewer frames, never older ones, and nobody waits for it.
"""

import asyncio
import logging
import struct
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lwd.console.accounts import Role
from lwd.console.audit import AuditLog
from lwd.console.command_rate import CommandRate
from lwd.console.emergency_stop import EmergencyStop
from lwd.console.fleet_link import FleetLink
from lwd.console.fleet_view import FleetView
from lwd.console.refusals import Refusals
from lwd.console.sessions import Session
from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import ControlRefused, ServiceError
from lwd.fleet.messages import ControlCommand, ControlState, ControlVerb
from lwd.fleet.rate_limit import TokenBucket
from lwd.fleet.stop_messages import Words

_STATE_EVERY_S = 0.5
_CHANGE_EVERY_S = 0.05
_UNACKNOWLEDGED = 2
_MAX_WATCHED = 256
"""Robots whose poses one browser gets, the first that it names."""
_SEND_WITHIN_S = 10.0
"""A browser that takes nothing for so long is gone."""
_WRONG_HZ, _WRONG_AT_ONCE = 2.0, 30
"""Messages that are none, before the connection ends."""
_POLICY_VIOLATION = 1008
_AUDITED = frozenset({"take", "release", "success", "failure", "discard", "undo"})
_UNANSWERED = frozenset({"drive", "jog", "keep"})
_GONE = (WebSocketDisconnect, RuntimeError, TimeoutError, OSError)
"""What a connection raises that has ended."""
_LENGTH = struct.Struct("<I")

_logger = logging.getLogger(__name__)
RobotId = Annotated[str, Field(pattern=NAME_PATTERN)]


class _FromBrowser(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Watch(_FromBrowser):
    """Whose poses the page draws now."""

    kind: Literal["watch"]
    robots: tuple[RobotId, ...] = Field(max_length=4096)
    hz: float = Field(gt=0, le=50)


class Acknowledge(_FromBrowser):
    """The last pose message was drawn."""

    kind: Literal["ack"]


class CommandFrom(_FromBrowser):
    """A command for one robot."""

    kind: Literal["command"]
    robot_id: RobotId
    verb: ControlVerb
    lease: int = Field(default=0, ge=0)
    sequence: int = Field(default=0, ge=0)
    action: tuple[float, ...] = Field(default=(), max_length=64)
    request_id: str = Field(default="", max_length=64)
    seen_s: float = Field(default=0.0, ge=0)
    """The robot's clock that the page showed last: of this page, not of this process, which may have seen more."""


class StopAll(_FromBrowser):
    """Stop all robots; who is logged in may. What becomes of it comes with the fleet's state."""

    kind: Literal["stop"]
    reason: Words = ""


_FROM_BROWSER: TypeAdapter[Watch | Acknowledge | CommandFrom | StopAll] = TypeAdapter(
    Annotated[Watch | Acknowledge | CommandFrom | StopAll, Field(discriminator="kind")]
)


class LiveClient:
    """One connected browser tab."""

    def __init__(
        self,
        socket: WebSocket,
        session: Session,
        link: FleetLink,
        view: FleetView,
        audit: AuditLog,
        refusals: Refusals,
        *,
        is_valid: Callable[[], bool],
        stop: EmergencyStop,
    ) -> None:
        """
        Args:
            is_valid: whether the session still holds; when it ends, so does the connection.
        """
        self._socket = socket
        self._session = session
        self._link = link
        self._view = view
        self._audit = audit
        self._refusals = refusals
        self._streamed = CommandRate(per_s=200, at_once=400)
        self._asked = CommandRate(per_s=10, at_once=40)
        self._is_valid = is_valid
        self._stop = stop
        self._asking: set[asyncio.Task[None]] = set()
        self._client_id = f"browser-{uuid.uuid4().hex[:16]}"
        self._robots: frozenset[str] = frozenset()
        self._hz = 10.0
        self._frames: dict[str, bytes] = {}
        self._clocks: dict[str, float] = {}
        self._unacknowledged = 0
        self._changed = True
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._wrong = TokenBucket(_WRONG_HZ, _WRONG_AT_ONCE)

    @property
    def robots(self) -> frozenset[str]:
        return self._robots

    @property
    def hz(self) -> float:
        return self._hz

    def on_frame(self, robot_id: str, frame: bytes) -> None:
        """Keep the newest frame of a robot until it can be sent."""
        self._frames[robot_id] = frame
        self._wake.set()

    def on_clock(self, state: ControlState) -> None:
        """Tell the page the newest clock of the robots that it controls: its commands repeat it."""
        if state.client_id == self._client_id:
            self._clocks[state.robot_id] = state.robot_time_s
            self._wake.set()

    def on_change(self) -> None:
        """Send the fleet's state soon."""
        self._changed = True
        self._wake.set()

    async def run(self) -> None:
        """Serve the browser until it goes; then its robots hold."""
        session = self._session
        hello = {"kind": "hello", "client_id": self._client_id, "name": session.name, "role": session.role.label}
        await self._socket.send_json(hello)
        self._link.add(self)
        sides = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        try:
            # Either: without the one that sends, the page would stand still and nobody would know.
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._link.remove(self)
            for task in (*sides, *self._asking):
                task.cancel()
            for task in sides:
                with suppress(asyncio.CancelledError, *_GONE):
                    await task
            await self._abandon()
            with suppress(*_GONE):
                async with asyncio.timeout(1.0):
                    await self._socket.close(_POLICY_VIOLATION)

    async def _send(self) -> None:
        next_state_s = next_poses_s = 0.0
        while True:
            now_s = time.monotonic()
            if not self._is_valid():
                await self._socket.close(4401)
                return
            if self._changed or now_s >= next_state_s:
                self._changed = False
                await self._send_json({"kind": "fleet", "bus": self._link.connected, **self._view.snapshot()})
                next_state_s = now_s + _STATE_EVERY_S
            if self._clocks:
                clocks, self._clocks = self._clocks, {}
                await self._send_json({"kind": "clocks", "robots": clocks})
            if self._frames and now_s >= next_poses_s and self._unacknowledged < _UNACKNOWLEDGED:
                frames, self._frames = self._frames, {}
                self._unacknowledged += 1
                data = b"".join(part for frame in frames.values() for part in (_LENGTH.pack(len(frame)), frame))
                async with asyncio.timeout(_SEND_WITHIN_S), self._sending:
                    await self._socket.send_bytes(data)
                next_poses_s = max(now_s, next_poses_s + 1 / self._hz)
            await asyncio.sleep(_CHANGE_EVERY_S if not self._frames else min(_CHANGE_EVERY_S, 0.5 / self._hz))
            if not self._frames and not self._changed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STATE_EVERY_S):
                        await self._wake.wait()
            self._wake.clear()

    async def _receive(self) -> None:
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            try:
                message = _FROM_BROWSER.validate_json(received.get("text") or "")
            except ValidationError as error:
                if not self._wrong.take():
                    return
                first = error.errors(include_url=False, include_input=False)[0]
                await self._send_json(
                    {"kind": "error", "message": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:500]}
                )
                continue
            match message:
                case Watch():
                    self._robots = frozenset(tuple(dict.fromkeys(message.robots))[:_MAX_WATCHED])
                    self._hz = message.hz
                    self._link.look_again()
                case StopAll():
                    await self._stop.stop(self._session.name, message.reason)
                case Acknowledge():
                    self._unacknowledged = max(0, self._unacknowledged - 1)
                    self._wake.set()
                case CommandFrom():
                    if message.verb in _UNANSWERED:
                        if self._streamed.allows():
                            await self._command(message)
                    elif not self._asked.allows():
                        await self._answer(message, "too many commands: wait a moment")
                    else:
                        # Apart: nobody's `drive` may wait for another robot's answer.
                        task = asyncio.create_task(self._command(message))
                        self._asking.add(task)
                        task.add_done_callback(self._asking.discard)

    async def _command(self, message: CommandFrom) -> None:
        refused = ""
        answer: dict[str, object] = {}
        try:
            if self._session.role < Role.OPERATOR:
                raise ControlRefused("a viewer only looks: log in as an operator to take robots over")
            command = ControlCommand(
                **message.model_dump(exclude={"kind", "request_id"}),
                operator_id=self._session.name,
                client_id=self._client_id,
            )
            if message.verb in _UNANSWERED:
                await self._link.send(command)
                return
            state = await self._link.ask(command)
            answer = {"lease": state.lease, "phase": state.phase, "robot_time_s": state.robot_time_s}
        except (ControlRefused, ServiceError) as error:
            refused = str(error)
        if message.verb in _AUDITED:
            status = self._view.control(message.robot_id)
            details = {
                "robot_id": message.robot_id,
                "lease": answer.get("lease", message.lease) if status else message.lease,
                "client_id": self._client_id,
            }
            if refused:
                await self._refusals.note(self._session.name, message.verb, refused, **details)
            else:
                self._audit.append(self._session.name, message.verb, refused="", **details)
        await self._answer(message, refused, **answer)

    async def _answer(self, message: CommandFrom, refused: str, **answer: object) -> None:
        await self._send_json({"kind": "answer", "request_id": message.request_id, "refused": refused, **answer})

    async def _send_json(self, content: dict[str, object]) -> None:
        async with asyncio.timeout(_SEND_WITHIN_S), self._sending:
            await self._socket.send_json(content)

    async def _abandon(self) -> None:
        for robot_id in self._view.held_by(self._client_id):
            command = ControlCommand(
                robot_id=robot_id, verb="abandon", operator_id=self._session.name, client_id=self._client_id
            )
            with suppress(ServiceError):
                await self._link.send(command)
            self._audit.append(self._session.name, "lost", robot_id=robot_id, client_id=self._client_id)
