"""The console's connection to the fleet: listens on the bus, asks for poses, passes commands on."""

import asyncio
import contextlib
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from lwd.console.fleet_view import FleetView
from lwd.console.value_feed import VALUES_HZ, ValueFeed
from lwd.errors import ConfigError, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.complaints import Complaints
from lwd.fleet.control_calls import ControlCalls
from lwd.fleet.liveness import alive
from lwd.fleet.messages import (
    CONTROL_SUBJECT,
    COORDINATOR_SUBJECT,
    LEARNER_SUBJECT,
    POSES_SUBJECT,
    VIEW_SUBJECT,
    WATCH_SUBJECT,
    ControlCommand,
    ControlState,
    CoordinatorHeartbeat,
    HostHeartbeat,
    LearnerHeartbeat,
    OperatorView,
    WatchRequest,
    host_subject,
    poses_subject,
)
from lwd.fleet.poses import robot_of_frame
from lwd.fleet.subjects import MAX_WATCH_BYTES

_RETRY_S = 1.0
_WATCH_EVERY_S = 1.0
_MAX_WATCHED = 4096
_WATCH_REST_S = 0.05

_logger = logging.getLogger(__name__)


def _subject_of_frame(data: bytes) -> str:
    return poses_subject(robot_of_frame(data))


def _that_fit(robots: Sequence[str]) -> tuple[str, ...]:
    """Return as many as a request takes, where each may stand twice."""
    room = MAX_WATCH_BYTES // 2 - 1024
    sizes = itertools.accumulate(len(robot_id) + 3 for robot_id in robots)
    return tuple(robot_id for robot_id, size in zip(robots, sizes, strict=True) if size <= room)[:_MAX_WATCHED]


def _told(state: ControlState) -> ControlState:
    return state.model_copy(update={"help_for_s": 0.0, "request_id": "", "refused": "", "robot_time_s": 0.0})


class Watcher(Protocol):
    """Somebody who looks: a browser."""

    @property
    def robots(self) -> frozenset[str]:
        """Whose poses it draws."""

    @property
    def hz(self) -> float:
        """How often, at most."""

    def on_frame(self, robot_id: str, frame: bytes) -> None:
        """A new pose frame; must not wait."""

    def on_clock(self, state: ControlState) -> None:
        """What a robot's clock was when it told who controls it; must not wait."""

    def on_change(self) -> None:
        """The state of control of a robot has changed; must not wait."""


class FleetLink:
    """One connection for all browsers of this console."""

    def __init__(
        self,
        bus: Callable[[], BusConfig],
        view: FleetView,
        values: ValueFeed,
        on_control: Callable[[ControlState | None, ControlState], Awaitable[None]],
    ) -> None:
        """
        Args:
            bus: asked at every try to connect.
            values: gets what the watched robots see.
            on_control: told of each robot's last state of control and of its new one.
        """
        self._bus_config = bus
        self._view = view
        self._values = values
        self._heard = on_control
        self._bus: Bus | None = None
        self._console_id = f"console-{uuid.uuid4().hex[:12]}"
        self._watchers: set[Watcher] = set()
        self._calls = ControlCalls(lambda: self._bus, self._on_control)
        self._wake = asyncio.Event()
        self.on_connect: Callable[[Bus], Awaitable[None]] | None = None
        """Called with each new connection."""
        self._complaint = ""
        self._complaints = Complaints(_logger)

    @property
    def connected(self) -> bool:
        return self._bus is not None and self._bus.connected

    def add(self, watcher: Watcher) -> None:
        self._watchers.add(watcher)
        self._wake.set()

    def remove(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._wake.set()

    def on_change(self) -> None:
        """Something that every browser shows has changed."""
        for watcher in self._watchers:
            watcher.on_change()

    def look_again(self) -> None:
        """A watcher looks at other robots now."""
        self._wake.set()

    async def run(self) -> None:
        """Stay connected and tell robots what is watched, until cancelled."""
        try:
            while True:
                alive()
                try:
                    if self._bus is None or self._bus.closed:
                        await self._connect()
                    if self._bus is not None:
                        await self._bus.publish(WATCH_SUBJECT, self._request())
                except ServiceError:
                    pass  # the bus is down; it says so itself
                except Exception as error:
                    # Whatever it is: one who looks must not take the fleet away from all others.
                    self._complaints.warn(type(error).__name__, "the fleet is not watched: %s", repr(error)[:500])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_WATCH_EVERY_S):
                        await self._wake.wait()
                self._wake.clear()
                # Browsers may look elsewhere as often as they like.
                await asyncio.sleep(_WATCH_REST_S)
        finally:
            if self._bus is not None:
                await self._bus.close()

    async def _connect(self) -> None:
        try:
            bus = await Bus.connect(self._bus_config(), name=self._console_id, timeout_s=2 * _RETRY_S)
            await bus.subscribe(host_subject("*"), HostHeartbeat, self._on_host)
            await bus.subscribe(LEARNER_SUBJECT, LearnerHeartbeat, self._on_learner)
            await bus.subscribe(COORDINATOR_SUBJECT, CoordinatorHeartbeat, self._on_coordinator)
            await bus.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, self._on_control)
            await bus.subscribe(f"{VIEW_SUBJECT}.*", OperatorView, self._on_view)
            await bus.subscribe_bytes(f"{POSES_SUBJECT}.*", self._on_frame, subject_of=_subject_of_frame)
            if self.on_connect is not None:
                await self.on_connect(bus)
            self._bus = bus
            self._complaint = ""
        except (ServiceError, ConfigError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _logger.warning("%s; trying again", error)

    def _request(self) -> WatchRequest:
        """What all browsers together look at: robots that there are, so that nobody's invention reaches the hosts."""
        asked = frozenset[str]().union(*(watcher.robots for watcher in self._watchers))
        robots = _that_fit(sorted(robot_id for robot_id in asked if self._view.knows(robot_id)))
        return WatchRequest(
            console_id=self._console_id,
            robots=robots,
            hz=max((watcher.hz for watcher in self._watchers), default=1.0),
            views=robots if self._values.wants_views else (),
            view_hz=VALUES_HZ,
        )

    async def _on_host(self, beat: HostHeartbeat) -> None:
        self._view.on_host(beat)

    async def _on_learner(self, beat: LearnerHeartbeat) -> None:
        self._view.on_learner(beat)

    async def _on_coordinator(self, beat: CoordinatorHeartbeat) -> None:
        self._view.on_coordinator(beat)

    async def _on_control(self, state: ControlState) -> None:
        before = self._view.control(state.robot_id)
        if not self._view.on_control(state):
            return
        # Each robot repeats its state every second; how long it has waited browsers hear soon enough.
        for watcher in self._watchers:
            watcher.on_clock(state)
            if before is None or _told(before) != _told(state):
                watcher.on_change()
        await self._heard(before, state)

    async def _on_view(self, view: OperatorView) -> None:
        # Others, such as operators at desks, ask hosts for views, too.
        if self._values.wants_views and any(view.robot_id in watcher.robots for watcher in self._watchers):
            self._values.on_view(view)

    async def _on_frame(self, data: bytes) -> None:
        robot_id = robot_of_frame(data)
        for watcher in self._watchers:
            if robot_id in watcher.robots:
                watcher.on_frame(robot_id, data)

    async def send(self, command: ControlCommand) -> None:
        """Pass a command on; nobody answers.

        Raises:
            ServiceError: if the bus is not there.
        """
        await self._calls.send(command)

    async def ask(self, command: ControlCommand) -> ControlState:
        """Pass a command on and return the robot's answer.

        Raises:
            ControlRefused: if the robot refuses.
            ServiceError: if the robot does not answer.
        """
        return await self._calls.ask(command)
