"""Who watches a host's robots: a bounded number of consoles and desks, each forgotten when it falls silent."""

import time
from collections.abc import Callable, Collection

from lwd.fleet.messages import WatchRequest
from lwd.fleet.rate_limit import TokenBucket

FORGOTTEN_S = 3.0
MAX_WATCHES = 32
_NEW_HZ = 4.0
"""Newcomers a second. One that asked once only makes room for another, so whoever repeats its request gets in, and
stays, while somebody else asks under ever new names."""


class Watches:
    """The requests that hold now, and what they come to."""

    def __init__(self, robots: Collection[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._robots = frozenset(robots)
        self._clock = clock
        self._newcomers = TokenBucket(_NEW_HZ, MAX_WATCHES, clock=clock)
        self._requests: dict[str, tuple[float, WatchRequest]] = {}
        """By console: until when, and what, with the names of this host's robots only."""
        self._repeated: set[str] = set()
        self.pose_hz: dict[str, float] = {}
        """Robots whose poses are wanted, and how often."""
        self.view_hz: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def note(self, request: WatchRequest) -> bool:
        """Take a request. Returns whether it is a newcomer's."""
        name = request.console_id
        known = name in self._requests
        if not known and not self._make_room():
            return False
        own = request.model_copy(
            update={
                "robots": tuple(self._robots.intersection(request.robots)),
                "views": tuple(self._robots.intersection(request.views)),
            }
        )
        before = self._requests.get(name)
        self._requests[name] = (self._clock() + FORGOTTEN_S, own)
        if known:
            self._repeated.add(name)
        if before is None or before[1] != own:
            self._count()
        return not known

    def forget(self) -> None:
        """Forget who was silent for too long."""
        now_s = self._clock()
        gone = [name for name, (until_s, _) in self._requests.items() if now_s > until_s]
        for name in gone:
            self._drop(name)
        if gone:
            self._count()

    def _make_room(self) -> bool:
        if not self._newcomers.take():
            return False
        if len(self._requests) < MAX_WATCHES:
            return True
        once = next((name for name in self._requests if name not in self._repeated), None)
        if once is not None:
            self._drop(once)
        return once is not None

    def _drop(self, name: str) -> None:
        del self._requests[name]
        self._repeated.discard(name)

    def _count(self) -> None:
        pose_hz: dict[str, float] = {}
        view_hz: dict[str, float] = {}
        for _, request in self._requests.values():
            for robot_id in request.robots:
                pose_hz[robot_id] = max(pose_hz.get(robot_id, 0.0), request.hz)
            for robot_id in request.views:
                view_hz[robot_id] = max(view_hz.get(robot_id, 0.0), request.view_hz)
        self.pose_hz, self.view_hz = pose_hz, view_hz
