"""Which committed episodes an operator means: by robot, time, task, policy or id."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from lwd.data.log import CommittedEpisode, EpisodeEntry
from lwd.errors import ConfigError

_LATEST_S = 1e11
"""The year 5138; larger numbers are milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Conditions that must all hold; None (or no id) accepts every episode."""

    robot: str | None = None
    since_s: float | None = None
    """The earliest start, Unix time of the robot's clock."""
    until_s: float | None = None
    """The start must lie before it."""
    task: str | None = None
    policy_version: int | None = None
    episodes: frozenset[str] = frozenset()
    """Named as ROBOT/ID, or by the ID alone."""

    def __post_init__(self) -> None:
        if self.since_s is not None and self.until_s is not None and self.since_s >= self.until_s:
            raise ConfigError(
                f"since ({time_in_words(self.since_s)}) is not before until ({time_in_words(self.until_s)}): "
                "no episode can lie between them"
            )

    @property
    def selects_everything(self) -> bool:
        return self == Selection()

    def accepts(self, entry: EpisodeEntry) -> bool:
        """Whether an episode fulfils all conditions."""
        return (
            (self.robot is None or entry.robot_id == self.robot)
            and (self.since_s is None or entry.started_at_s >= self.since_s)
            and (self.until_s is None or entry.started_at_s < self.until_s)
            and (self.task is None or entry.task == self.task)
            and (self.policy_version is None or entry.policy_version == self.policy_version)
            and (not self.episodes or not self.episodes.isdisjoint((entry.identity, entry.episode_id)))
        )

    def of(self, episodes: Iterable[CommittedEpisode]) -> list[EpisodeEntry]:
        """Return the entries that are accepted, in their order."""
        return [item.entry for item in episodes if self.accepts(item.entry)]


def require_one_robot(name: str, entries: Iterable[EpisodeEntry]) -> None:
    """Refuse the ID of an episode that several robots have.

    Raises:
        ConfigError: naming them.
    """
    found = sorted(entry.identity for entry in entries)
    if len(found) > 1:
        raise ConfigError(f"episode {name} is an id of {len(found)} robots: name one of {', '.join(found[:5])}")


def parse_time(name: str, text: str) -> float:
    """Return Unix seconds for an ISO 8601 date or time, or for Unix seconds.

    A date means its first moment. A time without a zone is UTC, whatever this machine's zone is.

    Args:
        name: of the option, for the error.
    Raises:
        ConfigError: if it is neither.
    """
    try:
        time_s = float(text)
    except ValueError:
        try:
            found = datetime.fromisoformat(text)
        except ValueError as error:
            raise ConfigError(
                f"{name} {text!r} is no time ({error}): give ISO 8601 such as 2026-11-25T04:00:00Z or "
                "2026-11-25T05:00+01:00 (no zone: UTC), or Unix seconds"
            ) from error
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(time_s) or not 0 <= time_s < _LATEST_S:
        hint = f"; in milliseconds it would be {time_in_words(time_s / 1000)}" if _LATEST_S <= time_s < 1e14 else ""
        raise ConfigError(f"{name} {text!r} is no Unix time in seconds since 1970{hint}: give seconds, or ISO 8601")
    return time_s


def time_in_words(time_s: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
