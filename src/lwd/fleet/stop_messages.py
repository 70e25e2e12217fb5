"""What is said of a stop of all robots, on the bus and in RUN/stop: orders, releases, and which host holds.

The state is two sets that only grow: stops, and releases that each name one stop. Merging is their union, in any order
and as often as one likes, so no clock and no sender decides; a release undoes no stop that its author did not name.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from lwd.data.episode_file import NAME_PATTERN
from lwd.fleet.messages import Message, host_subject

STOP_SUBJECT = "lwd.stop"
"""Whoever stops or releases sends the whole `StopState` here. Where NATS has permissions: consoles and desks only."""
STOPPED_SUBJECT = "lwd.stopped"
"""Hosts tell on `lwd.stopped.<host id>` whether their robots hold (`StopReport`)."""
STOP_KEY = "stop"
"""The state's entry in the KV bucket, for hosts that were away."""
MAX_STOPS = 64
"""Stops of a state that are not released, and released ones that are remembered; an older one is forgotten."""
MAX_REASON = 200
_ONE_PRESS_S = 2.0
"""A button that is sent in several ways, or pressed twice, is one stop."""
_MAX_OF_ONE = 8
STOP_ID_PATTERN = r"^[0-9a-f]{32}$"
UNKNOWN = "somebody"
"""Who stopped, where it is not told."""


def _printable(text: str) -> str:
    # It is shown in logs and terminals, where an escape sequence would act.
    if not text.isprintable():
        raise ValueError("has a character that cannot be printed; use one line of text")
    return text


StopId = Annotated[str, Field(pattern=STOP_ID_PATTERN)]
# The description's pattern is narrower than what is taken: no JSON schema can say "printable".
Words = Annotated[
    str, Field(max_length=MAX_REASON, json_schema_extra={"pattern": "^[ -~]*$"}), AfterValidator(_printable)
]


class StopOrder(Message):
    """Somebody stops all robots."""

    stop_id: StopId
    by: str = Field(pattern=NAME_PATTERN)
    reason: Words = ""
    at_s: float = 0.0
    """Unix time, for people."""


class StopRelease(Message):
    """Somebody releases one stop."""

    stop_id: StopId
    by: str = Field(pattern=NAME_PATTERN)
    reason: Words = ""
    at_s: float = 0.0


class StopState(Message):
    """Everything that is known of stops."""

    stops: tuple[StopOrder, ...] = Field(default=(), max_length=2 * MAX_STOPS)
    releases: tuple[StopRelease, ...] = Field(default=(), max_length=2 * MAX_STOPS)

    @property
    def active(self) -> tuple[StopOrder, ...]:
        """Stops that nobody has released, oldest first."""
        released = {release.stop_id for release in self.releases}
        return tuple(stop for stop in self.stops if stop.stop_id not in released)

    def merged(self, other: "StopState") -> "StopState":
        """Return the union; of two entries of one stop the one that says who."""
        stops: dict[str, StopOrder] = {}
        for stop in (*self.stops, *other.stops):
            known = stops.get(stop.stop_id)
            if known is None or known.by == UNKNOWN:
                stops[stop.stop_id] = stop
        releases: dict[str, StopRelease] = {}
        for release in (*self.releases, *other.releases):
            releases.setdefault(release.stop_id, release)
        active = sorted((stop for stop in stops.values() if stop.stop_id not in releases), key=_age)[:MAX_STOPS]
        kept = sorted(releases.values(), key=_age)[-MAX_STOPS:]
        over = [stops[release.stop_id] for release in kept if release.stop_id in stops]
        return StopState(stops=(*over, *active), releases=tuple(kept))

    def order(self, order: StopOrder) -> "StopState":
        """Return the state with one more stop; the same, if its author has just stopped, or often.

        Later it counts anew: somebody may be about to release the earlier one.
        """
        own = [stop for stop in self.active if stop.by == order.by]
        if len(own) >= _MAX_OF_ONE or any(abs(order.at_s - stop.at_s) < _ONE_PRESS_S for stop in own):
            return self
        return self.merged(StopState(stops=(order,)))

    def released(self, stop_ids: Iterable[str], by: str, reason: str, at_s: float) -> "StopState":
        """Return the state with the named stops released."""
        releases = tuple(StopRelease(stop_id=each, by=by, reason=reason, at_s=at_s) for each in stop_ids)
        return self.merged(StopState(releases=releases))


class RobotHold(Message):
    """Whether one robot of a stopped host holds."""

    robot_id: str = Field(pattern=NAME_PATTERN)
    holds: bool
    error: str = Field(default="", max_length=500)
    """Why it is not known to hold."""


class StopReport(Message):
    """One host, stopped or not. Sent on every change, in answer to every `StopState`, and each second while stopped."""

    host_id: str = Field(pattern=NAME_PATTERN)
    time_s: float
    stops: tuple[StopOrder, ...] = Field(default=(), max_length=MAX_STOPS)
    """What stops it; none: it is not stopped."""
    robots: tuple[RobotHold, ...] = Field(default=(), max_length=4096)

    @property
    def holds(self) -> bool:
        """Whether it is stopped, and every robot of it holds."""
        return bool(self.stops) and all(robot.holds for robot in self.robots)


class HostFile(Message):
    """What a host writes into RUN/stop/hosts, for who asks while the bus is down."""

    pid: int = Field(gt=0)
    report: StopReport


def words_of(stops: Iterable[StopOrder]) -> str:
    """Say who stopped the robots, and why; empty without a stop."""
    said = list(dict.fromkeys(f"{stop.by}: {stop.reason}" if stop.reason else stop.by for stop in stops))
    if not said:
        return ""
    more = f" (and {len(said) - 3} more)" if len(said) > 3 else ""
    return f"stopped by {'; by '.join(said[:3])}{more}"


def stopped_subject(host_id: str) -> str:
    """Return the subject of a host's `StopReport`; `lwd.stopped.*` is all of them."""
    return f"{STOPPED_SUBJECT}.{host_subject(host_id).rpartition('.')[2]}"


def _age(entry: StopOrder | StopRelease) -> tuple[float, str]:
    return (entry.at_s, entry.stop_id)
