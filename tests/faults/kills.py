"""kill -9 at random moments, and how long the fleet needed after each."""

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lwd.data.log import CommittedEpisode

from .servers import DataPlane, Kind
from .writers import robot_ids

KINDS: tuple[Kind, ...] = ("store", "coordinator", "bus", "writer")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A process that was killed."""

    kind: Kind
    name: str
    at_s: float
    """Unix time."""


class Killer:
    """Kills processes of a data plane by a plan; call `step` often."""

    def __init__(self, plane: DataPlane, counts: dict[Kind, int], *, within_s: float, seed: int) -> None:
        """
        Args:
            counts: how many of each kind, at moments that are uniform within `within_s` from now.
        """
        self._plane = plane
        self._random = random.Random(seed)
        self._start_s = time.monotonic()
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        self._plan = sorted((self._random.uniform(0.0, within_s), kind) for kind in kinds)
        self.kills: list[Kill] = []

    @property
    def done(self) -> bool:
        return not self._plan

    def step(self) -> None:
        """Kill what is due; what is down at its moment is killed when it runs again."""
        elapsed_s = time.monotonic() - self._start_s
        for moment in [moment for moment in self._plan if moment[0] <= elapsed_s]:
            if found := self._plane.killable(moment[1]):
                self._plan.remove(moment)
                member = self._random.choice(found)
                member.kill()
                self.kills.append(Kill(kind=member.kind, name=member.name, at_s=time.time()))


def recovery_s(kill: Kill, committed: Sequence[CommittedEpisode], robots: int) -> float | None:
    """Return the time from a kill until an episode is committed that was uploaded after it.

    After a writer's kill that must be an episode of the same writer. None if there was no such episode.
    """
    own = set(robot_ids(kill.name, robots))
    after = [
        item.committed_at_s - kill.at_s
        for item in committed
        if item.entry.uploaded_at_s > kill.at_s and (kill.kind != "writer" or item.entry.robot_id in own)
    ]
    return min(after, default=None)


def recovery_table(kills: Sequence[Kill], committed: Sequence[CommittedEpisode], robots: int) -> str:
    """Describe kills and recoveries, one line per kind.

    What was killed while the store was down comes back with the store at the earliest: it is counted, but its time
    is left out.
    """
    outages = [
        (kill.at_s, kill.at_s + (recovery_s(kill, committed, robots) or 0.0)) for kill in kills if kill.kind == "store"
    ]
    lines = []
    for kind in KINDS:
        times_s = []
        of_kind = [kill for kill in kills if kill.kind == kind]
        for kill in of_kind:
            took_s = recovery_s(kill, committed, robots)
            overlaps = any(kill.at_s < end and start < kill.at_s + (took_s or 0.0) for start, end in outages)
            if took_s is not None and (kind == "store" or not overlaps):
                times_s.append(took_s)
        summary = "no time"
        if times_s:
            low, middle, high = min(times_s), statistics.median(times_s), max(times_s)
            summary = f"min {low:.1f} median {middle:.1f} max {high:.1f} s over {len(times_s)}"
        lines.append(f"{kind}: {len(of_kind)} kills, until commits flow again: {summary}")
    return "\n".join(lines)
