"""The world outside the machines: an S3 service and a message bus, both as bad as they may be.

S3 keeps its promises (strong consistency, one winner of a create-only PUT); its answers are late, lost before or
after the effect, or 409. The bus promises nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from obstore.exceptions import AlreadyExistsError, GenericError, NotFoundError

from lwd.errors import ServiceError
from lwd.fleet.messages import EpisodeAnnouncement


class Surroundings(Protocol):
    """What network and disks ask of the world."""

    def pause(self, what: str) -> None:
        """Let others run."""

    def strikes(self, fault: str) -> bool:
        """Whether a fault happens here and now."""

    def later(self, action: Any) -> None:
        """Do something at an unknown time."""

    def wall_s(self) -> float:
        """Unix time where the caller is."""

    def below(self, count: int) -> int:
        """Return a number in [0, count)."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    data: bytes
    modified_s: float


@dataclass(frozen=True, kw_only=True)
class _Body:
    data: bytes

    @property
    def meta(self) -> dict[str, int]:
        return {"size": len(self.data)}

    def bytes(self) -> bytes:
        return self.data


class SimulatedS3:
    """Stands in for the `obstore` module below the real RemoteStore, with one bucket."""

    def __init__(self, world: Surroundings, *, create_only: bool = True) -> None:
        """
        Args:
            create_only: False makes a service that ignores the condition of a PUT, for a test of the tests.
        """
        self.objects: dict[str, _Stored] = {}
        self.elsewhere: dict[str, _Stored] | None = None
        """Another bucket, to which the name resolves for a while."""
        self._world = world
        self._create_only = create_only

    def put(self, remote: object, key: str, data: bytes, *, mode: str, use_multipart: bool) -> None:
        assert (mode, use_multipart) == ("create", False), "only such a PUT is conditional"
        self._world.pause(f"PUT {key}")
        if self._world.strikes("request lost"):
            raise GenericError("connection reset before the request was sent")
        if self._world.strikes("conflict"):
            raise AlreadyExistsError("409 ConditionalRequestConflict")
        if self._world.strikes("request delayed"):
            # The client gives up; the request is on its way.
            self._world.later(lambda: self._store(key, data))
            raise GenericError("timed out")
        stored = self._store(key, data)
        if self._world.strikes("answer lost"):
            raise GenericError("connection reset after the request was sent")
        self._world.pause(f"answer to PUT {key}: {'stored' if stored else 'exists'}")
        if not stored:
            raise AlreadyExistsError("412 PreconditionFailed")

    def get(self, remote: object, key: str) -> _Body:
        self._world.pause(f"GET {key}")
        if self._world.strikes("request lost"):
            raise GenericError("connection reset")
        found = self._there.get(key)
        self._world.pause(f"answer to GET {key}: {'nothing' if found is None else 'found'}")
        if found is None:
            raise NotFoundError(key)
        return _Body(data=found.data)

    def list(self, remote: object, prefix: str) -> Iterator[Sequence[dict[str, Any]]]:
        self._world.pause(f"LIST {prefix}")
        if self._world.strikes("request lost"):
            raise GenericError("connection reset")
        found = [
            {"path": key, "size": len(item.data), "last_modified": datetime.fromtimestamp(item.modified_s, UTC)}
            for key, item in sorted(self._there.items())
            if key.startswith(f"{prefix}/")
        ]
        # Slow: what it says was true when it began.
        self._world.pause(f"answer to LIST {prefix}: {len(found)}")
        return iter([found])

    def delete(self, remote: object, key: str) -> None:
        self._world.pause(f"DELETE {key}")
        self._there.pop(key, None)

    @property
    def _there(self) -> dict[str, _Stored]:
        return self.objects if self.elsewhere is None else self.elsewhere

    def damage(self, key: str) -> None:
        """Tear an object, as nothing of ours would."""
        stored = self.objects[key]
        self.objects[key] = _Stored(data=stored.data[: len(stored.data) // 2], modified_s=stored.modified_s)

    def _store(self, key: str, data: bytes) -> bool:
        if key in self._there and self._create_only:
            return False
        self._there[key] = _Stored(data=bytes(data), modified_s=self._world.wall_s())
        return True


class SimulatedBus:
    """A doorbell that rings late, twice, out of order or never."""

    connected = True

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._waiting: list[EpisodeAnnouncement] = []
        self._unacknowledged: list[EpisodeAnnouncement] = []

    async def announce(self, announcement: EpisodeAnnouncement) -> None:
        """As `lwd.fleet.bus.Bus.announce`."""
        self._world.pause(f"announce {announcement.episode_id}")
        if self._world.strikes("request lost"):
            raise ServiceError(f"announcing {announcement.episode_id} failed")
        if not self._world.strikes("message lost"):
            self._waiting.append(announcement)
        if self._world.strikes("message doubled"):
            self._world.later(lambda: self._waiting.append(announcement))
        if self._world.strikes("answer lost"):
            raise ServiceError(f"announcing {announcement.episode_id} failed")

    def fetch(self, limit: int) -> list[EpisodeAnnouncement]:
        """Return some of the announcements, in any order."""
        self._world.pause("fetch announcements")
        if self._world.strikes("request lost"):
            raise ServiceError("fetching announcements failed")
        received = []
        while self._waiting and len(received) < limit:
            received.append(self._waiting.pop(self._world.below(len(self._waiting))))
        self._unacknowledged += received
        return received

    def acknowledge(self, announcement: EpisodeAnnouncement) -> None:
        """As Bus.acknowledge: it may fail without a word."""
        self._world.pause(f"acknowledge {announcement.episode_id}")
        if announcement in self._unacknowledged and not self._world.strikes("answer lost"):
            self._unacknowledged.remove(announcement)

    def redeliver(self) -> None:
        """What was not acknowledged in time comes again."""
        self._waiting += self._unacknowledged
        self._unacknowledged.clear()

    def lose_everything(self) -> None:
        """The whole stream is deleted."""
        self._waiting.clear()
        self._unacknowledged.clear()
