"""Copying a store: for a backup, and for moving from a directory to S3.

The source may be in use. Everything that the log names goes before the log, and the log goes version by version:
at every moment the copy is a store whose log is a part of the source's, with all its episodes. The index goes
last (a program that starts jumps to it), leases and probes not at all (they are about the source's readers).
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lwd.data.history import LogHistory, read_history
from lwd.data.identity import IDENTITY_KEY, read_identity
from lwd.data.leases import REMOVED_PREFIX
from lwd.data.log import LOG_PREFIX, log_key
from lwd.data.log_index import INDEX_PREFIX
from lwd.data.policies import POLICY_PREFIX, read_manifest
from lwd.data.quarantine import QUARANTINE_PREFIX
from lwd.data.relabelling import RELABELLED_PREFIX
from lwd.data.store import Created, ObjectStore, StoredObject, get_or_none
from lwd.errors import ManifestDamaged, ObjectExists, ObjectMissing, StoreError

_PARALLEL = 8

OnCopied = Callable[[int, int], None]
"""(objects dealt with, of how many)."""


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """What a copy amounts to."""

    version: int
    """Newest snapshot of the copy."""
    episodes: int
    """Episodes of that snapshot."""
    copied: int
    """Objects that this call stored."""
    copied_bytes: int
    present: int
    """Objects that were there before, or that retention took from the source meanwhile."""


def copy_store(
    source: ObjectStore, target: ObjectStore, *, verify: bool = False, on_copied: OnCopied = lambda done, total: None
) -> CopyResult:
    """Bring the target to the source's newest snapshot. Killed or repeated, it goes on where it was.

    Args:
        verify: also read back and compare every episode and policy that the target had before.
    Raises:
        StoreError: if the target has another log, an object is not what the log or its manifest says, or a
            store fails.
    """
    history = read_history(source)
    _require_same_identity(source, target)
    _require_prefix(source, target, history)
    return _Copy(source, target, history, verify, on_copied).run()


class _Copy:
    def __init__(
        self, source: ObjectStore, target: ObjectStore, history: LogHistory, verify: bool, on_copied: OnCopied
    ) -> None:
        self._source, self._target, self._history, self._verify = source, target, history, verify
        self._on_copied = on_copied
        self._hashes = {item.entry.key: item.entry.sha256 for item in history.snapshot.episodes.values()}
        """Key -> sha256 of what must be right; a revoked episode may have been revoked because it was not."""
        self._live = set(self._hashes)
        self._copied = self._copied_bytes = self._present = 0

    def run(self) -> CopyResult:
        # Foreign objects of this folder are copied, too, as they are.
        manifests = [item for item in self._source.list(POLICY_PREFIX) if item.key.endswith(".json")]
        for item in manifests:
            with contextlib.suppress(ObjectMissing, ManifestDamaged):  # an old policy, and retention is running
                manifest = read_manifest(self._source, item.key)
                self._hashes[manifest.key] = manifest.sha256
        # Listed after the manifests: what they publish is surely among them.
        weights = [item for item in self._source.list(POLICY_PREFIX) if not item.key.endswith(".json")]
        version = self._history.snapshot.version
        indexes = [item for item in self._source.list(INDEX_PREFIX) if item.key < f"{INDEX_PREFIX}/{version + 1:012d}"]
        steps = [
            # What was removed, before the snapshots that lack it.
            list(self._source.list(REMOVED_PREFIX)),
            list(self._source.list("episodes")),
            list(self._source.list(RELABELLED_PREFIX)),
            list(self._source.list(QUARANTINE_PREFIX)),
            weights,
            manifests,
        ]
        missing = self._live - {item.key for item in (*steps[1], *steps[2])}
        if missing:
            raise StoreError(
                f"{min(missing)} is in the log and not in the source ({len(missing)} such episodes): restore them "
                "from another copy, or revoke them"
            )
        total = sum(map(len, steps)) + version + len(indexes)
        # A copy is the same store at another place: whoever knows this one finds it there.
        if (identity := get_or_none(self._source, IDENTITY_KEY)) is not None:
            self._put(IDENTITY_KEY, identity)
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="copy") as pool:
            for step in steps:
                there = {item.key: item for item in self._target.list(step[0].key.partition("/")[0])} if step else {}
                for found in pool.map(lambda item, there=there: self._object(item, there), step):
                    self._count(found, total)
        for number in range(1, version + 1):
            self._count(self._put(log_key(number), self._source.get(log_key(number))), total)
        for item in indexes:
            self._count(self._index(item), total)
        return CopyResult(
            version=version,
            episodes=len(self._live),
            copied=self._copied,
            copied_bytes=self._copied_bytes,
            present=self._present,
        )

    def _object(self, item: StoredObject, there: Mapping[str, StoredObject]) -> int | None:
        """Copy one object; return the bytes stored, None if it was there."""
        held = there.get(item.key)
        # Objects are written once and whole: what is there with the right size came from an earlier call.
        if held is not None and held.size_bytes == item.size_bytes:
            if self._verify:
                self._check(item.key, self._target.get(item.key), "the target")
            return None
        data = get_or_none(self._source, item.key)
        if data is None:
            # Retention takes revoked episodes, old policies and quarantined objects while we copy.
            if item.key in self._live:
                raise StoreError(f"{item.key} was revoked and removed while it was copied: run the same command again")
            return None
        self._check(item.key, data, "the source")
        return self._put(item.key, data)

    def _index(self, item: StoredObject) -> int | None:
        try:
            return self._put(item.key, self._source.get(item.key))
        except (ObjectMissing, ObjectExists):
            # Retention took it; or the target has its own, which says the same.
            return None

    def _check(self, key: str, data: bytes, where: str) -> None:
        expected = self._hashes.get(key)
        found = hashlib.sha256(data).hexdigest()
        if expected is not None and found != expected:
            raise StoreError(
                f"{key} in {where} has sha256 {found[:12]}, committed was {expected[:12]}: restore it from another "
                "copy, or revoke the episode"
            )

    def _put(self, key: str, data: bytes) -> int | None:
        try:
            return len(data) if self._target.create(key, data) is Created.NEW else None
        except ObjectExists as error:
            raise StoreError(f"{error}: the target is no copy of this source; choose an empty one") from error

    def _count(self, stored_bytes: int | None, total: int) -> None:
        if stored_bytes is None:
            self._present += 1
        else:
            self._copied += 1
            self._copied_bytes += stored_bytes
        self._on_copied(self._copied + self._present, total)


def _require_same_identity(source: ObjectStore, target: ObjectStore) -> None:
    """Refuse a target that is another store, before anything is copied."""
    there, here = read_identity(target), read_identity(source)
    if there is not None and (here is None or there.store_id != here.store_id):
        raise StoreError(
            f"the target is store {there.store_id[:12]}, the source is "
            f"{'none that is known' if here is None else here.store_id[:12]}: the target is no copy of this source; "
            "choose an empty one"
        )


def _require_prefix(source: ObjectStore, target: ObjectStore, history: LogHistory) -> None:
    """Refuse a target whose log went another way, before anything is copied."""
    newest = max((item.key for item in target.list(LOG_PREFIX)), default=None)
    if newest is None:
        return
    if get_or_none(source, newest) != target.get(newest):
        raise StoreError(
            f"the target's log has {newest}, the source's has not (it ends at version {history.snapshot.version}): "
            "the target is no copy of this source; choose an empty one"
        )
