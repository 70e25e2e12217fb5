"""Stores for tests of leases, retention and copying: small objects, a real log, and a hook at every operation."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from lwd.data.history import read_history
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.store import Created, ObjectStore, StoredObject, get_or_none
from lwd.types import Outcome, Source


def content(name: str) -> bytes:
    return f"the bytes of {name}".encode()


def upload(store: ObjectStore, name: str, *, robot: str = "r1") -> EpisodeEntry:
    """Store an object for an episode and describe it as the log does."""
    key = f"episodes/{robot}/{name}.arrow"
    store.create(key, content(name))
    return EpisodeEntry(
        episode_id=name, key=key, sha256=hashlib.sha256(content(name)).hexdigest(), bytes=len(content(name)),
        robot_id=robot, embodiment="toy", task="reach", instruction="go", source=Source.FLEET,
        outcome=Outcome.SUCCESS, world="nominal", policy_version=2, steps=6, human_steps=0, interventions=0,
        sub_step_scores=(1.0,), control_hz=10.0, started_at_s=1.0, uploaded_at_s=2.0,
    )  # fmt: skip


def commit(store: ObjectStore, *added: str, revoked: tuple[str, ...] = ()) -> int:
    """Commit one version; return its number."""
    reader = LogReader(store)
    reader.poll()
    entry = LogEntry(
        version=reader.version + 1, epoch=1, batch_id=f"b{reader.version}", committed_at_s=3.0,
        added=tuple(upload(store, name) for name in added), revoked=revoked,
    )  # fmt: skip
    assert LogWriter(store, reader).commit(entry)
    return entry.version


def missing_from(store: ObjectStore, version: int) -> list[str]:
    """Return the episodes that a reader at `version` may still fetch, now or at any later snapshot, and cannot."""
    newest = LogReader(store)
    newest.poll()
    wanted: dict[str, EpisodeEntry] = {}
    for snapshot in range(max(version, 1), newest.version + 1):
        reader = LogReader(store)
        reader.poll(up_to=snapshot)
        wanted |= {item.entry.episode_id: item.entry for item in reader.snapshot.episodes.values()}
    return [name for name, entry in wanted.items() if get_or_none(store, entry.key) != content(name)]


def objects(store: ObjectStore, prefix: str) -> list[str]:
    return [item.key for item in store.list(prefix)]


def revoked_and_there(store: ObjectStore) -> list[str]:
    there = set(objects(store, "episodes"))
    gone = [item.episode.entry for item in read_history(store).revoked.values()]
    return [entry.episode_id for entry in gone if entry.key in there]


class Stepping:
    """A store that calls `hook` before its operation number `at` (from 1), and counts them."""

    def __init__(self, inner: ObjectStore, at: int = 0, hook: Callable[[], object] = lambda: None) -> None:
        self.inner, self.at, self.hook, self.count = inner, at, hook, 0

    @property
    def reached(self) -> bool:
        return self.count >= self.at

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.hook()

    def create(self, key: str, data: bytes) -> Created:
        self._step()
        return self.inner.create(key, data)

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self._step()
        return self.inner.get(key, max_bytes=max_bytes)

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        self._step()
        return iter(list(self.inner.list(prefix, start_after)))

    def delete(self, key: str) -> None:
        self._step()
        self.inner.delete(key)


class Skewed(Stepping):
    """A store whose clock is set: what it lists below `prefix` looks `offset_s` younger (older, if negative)."""

    offset_s = 0.0
    prefix = ""

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        for item in super().list(prefix, start_after):
            shifted = item.key.startswith(self.prefix)
            yield replace(item, modified_s=item.modified_s + self.offset_s) if shifted else item
