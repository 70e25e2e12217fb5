"""An operator's desk: a process somewhere else that sees which robots ask for help, and drives one at a time.

It speaks the protocol that the console speaks, over the same bus: the robot's host gives the lease, and keeps the
dead-man's switch.
"""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator

import numpy as np

from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import ConfigError, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.control_calls import ControlCalls
from lwd.fleet.messages import (
    CONTROL_SUBJECT,
    VIEW_SUBJECT,
    WATCH_SUBJECT,
    ControlCommand,
    ControlState,
    ControlVerb,
    OperatorView,
    WatchRequest,
)
from lwd.types import FloatArray

CLIENT_PREFIX = "desk-"
"""Begins the client id of every desk: whoever keeps an audit log knows whom no console has let in."""
_WATCH_EVERY_S = 1.0
_FORGOTTEN_S = 3.0
"""A robot that was silent for so long is not in the queue."""


class Desk:
    """The newest of everything that an operator needs, and the commands that they send."""

    def __init__(self, bus: Bus, operator_id: str) -> None:
        """
        Args:
            operator_id: recorded with each step that this desk drives.
        Raises:
            ConfigError: if it is no name.
        """
        if not re.match(NAME_PATTERN, operator_id):
            raise ConfigError(f"name is {operator_id!r}: give letters, digits, '.', '_' and '-', such as ada-1")
        self.operator_id = operator_id
        self._bus = bus
        self._client_id = f"{CLIENT_PREFIX}{uuid.uuid4().hex[:16]}"
        self._calls = ControlCalls(lambda: bus, self._on_control)
        self._states: dict[str, tuple[float, ControlState]] = {}
        self._helped_s: dict[str, float] = {}
        self._looking_at = ""
        self._view: OperatorView | None = None
        self._seen_s: dict[str, float] = {}
        """The newest clock of each robot that this operator has seen."""
        self._new_state = asyncio.Event()
        self._new_view = asyncio.Event()
        self._watch_now = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, bus: BusConfig, operator_id: str) -> AsyncIterator["Desk"]:
        """Connect; on leaving, disconnect.

        Raises:
            ConfigError: if the name or a file of the bus's configuration is wrong.
            ServiceError: if there is no bus.
        """
        connection = await Bus.connect(bus, name=f"operator {operator_id}")
        watching: asyncio.Task[None] | None = None
        try:
            desk = cls(connection, operator_id)
            await connection.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, desk._on_control)
            await connection.subscribe(f"{VIEW_SUBJECT}.*", OperatorView, desk._on_view)
            watching = asyncio.create_task(desk._watch())
            yield desk
        finally:
            if watching is not None:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
            await connection.close()

    def require_bus(self) -> None:
        """
        Raises:
            ServiceError: if the connection is gone for good.
        """
        if self._bus.closed:
            raise ServiceError("the message bus has ended the connection: start this operator again")

    def asking(self) -> list[str]:
        """Return the robots that ask for help and that nobody has, longest waiting first."""
        now_s = time.monotonic()
        waiting = [
            (state.help_for_s + now_s - at_s, robot_id)
            for robot_id, (at_s, state) in self._states.items()
            if state.help_reason and not state.lease and not state.fault and now_s - at_s < _FORGOTTEN_S
            # What it said before it noticed that it was helped is no new request.
            if at_s - state.help_for_s >= self._helped_s.get(robot_id, -float("inf"))
        ]
        return [robot_id for _, robot_id in sorted(waiting, reverse=True)]

    def note_helped(self, robot_id: str) -> None:
        """A robot was helped: only what it asks from now on counts."""
        self._helped_s[robot_id] = time.monotonic()

    async def wait(self, timeout_s: float) -> None:
        """Wait until a robot tells something new, or for `timeout_s`."""
        self._new_state.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._new_state.wait()

    def look_at(self, robot_id: str) -> None:
        """From now on get the views of this robot, and of no other; empty: of none."""
        if robot_id != self._looking_at:
            self._looking_at, self._view = robot_id, None
            self._watch_now.set()

    async def next_view(self, timeout_s: float) -> OperatorView | None:
        """Return the newest view that was not returned before; None after `timeout_s` without one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._view is None:
                    self._new_view.clear()
                    await self._new_view.wait()
        view, self._view = self._view, None
        return view

    def waits(self, robot_id: str) -> bool:
        """Whether a robot's episode is over, and its next one waits for whoever holds it."""
        return robot_id in self._states and self._states[robot_id][1].waits

    async def ask(self, robot_id: str, verb: ControlVerb, lease: int = 0) -> ControlState:
        """Send a command and return the robot's answer.

        Raises:
            ControlRefused: if the robot refuses.
            ServiceError: if it does not answer.
        """
        return await self._calls.ask(self._command(robot_id, verb, lease))

    async def tell(self, robot_id: str, verb: ControlVerb, lease: int = 0) -> None:
        """Send a command that nobody answers.

        Raises:
            ServiceError: if the bus is not there.
        """
        await self._calls.send(self._command(robot_id, verb, lease))

    def fault(self, robot_id: str) -> str:
        """Return why a robot rests or waits for a person; empty if it has no fault."""
        return self._states[robot_id][1].fault if robot_id in self._states else ""

    async def drive(self, view: OperatorView, sequence: int, action: FloatArray) -> None:
        """Say what the robot of a view is to do until the next `drive`, for 200 ms at most.

        Args:
            view: what the action is chosen by, under this desk's lease.
        Raises:
            ServiceError: if the bus is not there.
        """
        content = {
            "sequence": sequence,
            "action": tuple(np.asarray(action, np.float32).tolist()),
            "seen_s": view.robot_time_s,
        }
        await self._calls.send(self._command(view.robot_id, "drive", view.lease).model_copy(update=content))

    def _command(self, robot_id: str, verb: ControlVerb, lease: int) -> ControlCommand:
        return ControlCommand(
            robot_id=robot_id,
            verb=verb,
            operator_id=self.operator_id,
            client_id=self._client_id,
            lease=lease,
            seen_s=self._seen_s.get(robot_id, 0.0),
        )

    async def _watch(self) -> None:
        """Hosts tell who controls their robots only while somebody watches."""
        while True:
            views = (self._looking_at,) if self._looking_at else ()
            with contextlib.suppress(ServiceError):
                await self._bus.publish(
                    WATCH_SUBJECT, WatchRequest(console_id=self._client_id, robots=(), hz=1.0, views=views)
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_EVERY_S):
                    await self._watch_now.wait()
            self._watch_now.clear()

    async def _on_control(self, state: ControlState) -> None:
        self._states[state.robot_id] = (time.monotonic(), state)
        self._seen_s[state.robot_id] = state.robot_time_s
        self._new_state.set()

    async def _on_view(self, view: OperatorView) -> None:
        if view.robot_id == self._looking_at:
            self._view = view
            self._new_view.set()
