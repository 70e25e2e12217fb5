"""Who watches a host's robots: a bounded number of consoles and desks, each forgotten when it falls silent."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection

from lwd.fleet.messages import WatchRequest

FORGOTTEN_S = 3.0
MAX_WATCHES = 32
_HELD_S = 60.0
"""For how long a flood that drowns the consoles' requests lets nobody be forgotten who has repeated theirs."""
_HEARD_ONCE = 4096
"""Names that were heard once and found no room. Who repeats a request gets in, and stays, while somebody else asks
under ever new names."""


class Watches:
    """The requests that hold now, and what they come to."""

    def __init__(self, robots: Collection[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._robots = frozenset(robots)
        self._clock = clock
        self._requests: dict[str, tuple[float, WatchRequest]] = {}
        """By console: until when, and what, with the names of this host's robots only."""
        self._heard_s: dict[str, float] = {}
        self._once: OrderedDict[str, float] = OrderedDict()
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
        now_s = self._clock()
        if not known and not self._make_room(name, now_s):
            return False
        own = request.model_copy(
            update={
                "robots": tuple(self._robots.intersection(request.robots)),
                "views": tuple(self._robots.intersection(request.views)),
            }
        )
        before = self._requests.get(name)
        self._requests[name] = (now_s + FORGOTTEN_S, own)
        self._heard_s[name] = now_s
        if known or self._once.pop(name, None) is not None:
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

    def hold(self, seconds: float) -> None:
        """No request can be heard for so long: who has repeated theirs is not forgotten, for a minute at most."""
        for name in self._repeated:
            until_s, request = self._requests[name]
            self._requests[name] = (min(until_s + seconds, self._heard_s[name] + _HELD_S), request)

    def _make_room(self, name: str, now_s: float) -> bool:
        if len(self._requests) < MAX_WATCHES:
            return True
        if now_s - self._once.get(name, -float("inf")) > FORGOTTEN_S:
            self._once[name] = now_s
            self._once.move_to_end(name)
            if len(self._once) > _HEARD_ONCE:
                self._once.popitem(last=False)
            return False
        other = next((each for each in self._requests if each not in self._repeated), None)
        if other is not None:
            self._drop(other)
        return other is not None

    def _drop(self, name: str) -> None:
        del self._requests[name], self._heard_s[name]
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
