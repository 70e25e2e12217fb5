"""Is every object of a store as it was written? What is not is named, with what can be done about it.

The log is checked first and indexes against it, so that a damaged index is never blamed on an episode.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import ValidationError

from lwd.data import durable
from lwd.data.identity import IDENTITY_KEY, StoreIdentity, read_identity
from lwd.data.log import REPAIR, CommittedEpisode, LogEntry, LogReader, Snapshot, index_of, read_entry
from lwd.data.log_head import LOG_PREFIX, KnownEntry, OlderLog, log_key, require_entry, version_of
from lwd.data.log_index import INDEX_PREFIX, IndexDamaged, LogIndex, index_key, read_index
from lwd.data.log_repair import filler_entry, rebuilt_entries
from lwd.data.policies import POLICY_PREFIX, read_manifest
from lwd.data.quarantine import QUARANTINE_PREFIX, QuarantineRecord
from lwd.data.repair import Overlay
from lwd.data.store import DirectoryStore, ObjectStore, StoredObject, get_or_none
from lwd.errors import ObjectMissing, StoreError

_PARALLEL = 4
_RESTORE = "restore it from a copy of the store"
OnChecked = Callable[[int, int], None]
"""(objects dealt with, of how many)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    key: str
    what: str
    remedy: str
    repairable: bool = False
    """Whether `repair_store` does it."""


@dataclass(kw_only=True)
class Verification:
    """What a walk over the store has found."""

    version: int = 0
    """The newest version that can be read, repairs included."""
    episodes: int = 0
    """Live episodes of it."""
    objects: int = 0
    """Objects that were looked at."""
    problems: list[Problem] = field(default_factory=list)
    replacements: dict[str, bytes | None] = field(default_factory=dict)
    """What a repair puts under a key; None: it only sets aside what is there. In the order in which to do it."""

    def add(self, key: str, what: str, remedy: str, *, repair: tuple[bytes | None] | None = None) -> None:
        """Note a problem; `repair` holds the object's new content."""
        self.problems.append(Problem(key=key, what=what, remedy=remedy, repairable=repair is not None))
        if repair is not None:
            self.replacements[key] = repair[0]


def verify_store(
    store: ObjectStore,
    *,
    identity: StoreIdentity | None = None,
    known: KnownEntry | None = None,
    fill_holes: bool = False,
    on_checked: OnChecked = lambda done, total: None,
) -> Verification:
    """Read a whole store and compare it with itself, and with what a run knows of it.

    Args:
        identity: of the store that it should be.
        known: the newest entry that the run knows.
        fill_holes: plan fillers for versions that cannot be made again.
    Raises:
        StoreError: if the store cannot be read at all.
    """
    return _Verifier(store, fill_holes, on_checked).run(identity, known)


class _Verifier:
    def __init__(self, store: ObjectStore, fill_holes: bool, on_checked: OnChecked) -> None:
        self._store, self._fill_holes, self._on_checked = store, fill_holes, on_checked
        self._result = Verification()

    def run(self, identity: StoreIdentity | None, known: KnownEntry | None) -> Verification:
        result = self._result
        indexes = self._indexes()
        entries, found = self._log(indexes)
        if known is not None:
            self._known(known)
        self._identity(identity, known, has_log=bool(found))
        reader = LogReader(Overlay(self._store, result.replacements))
        try:
            for version in sorted(indexes):
                reader.poll(version)
                self._compare_index(indexes[version], reader.snapshot)
            reader.poll()
            whole = reader.version >= max(entries, default=0)
        except StoreError as error:
            whole = False
            if not any(problem.key.startswith(f"{LOG_PREFIX}/") for problem in result.problems):
                result.add(log_key(reader.version + 1), str(error), _RESTORE)
        result.version = reader.version
        self._quarantine()
        self._episodes(reader.snapshot, entries, whole=whole)
        self._policies()
        if whole and any(problem.key.startswith(INDEX_PREFIX) for problem in result.problems) and reader.version:
            self._new_index(reader.snapshot)
        if isinstance(self._store, DirectoryStore):
            for path in durable.leftovers(self._store.root):
                name = str(path.relative_to(self._store.root))
                result.add(name, "left by a process that was killed", "--repair removes it", repair=(None,))
        return result

    # ---- the log and its indexes -----------------------------------------------------------------------------

    def _log(self, indexes: Mapping[int, LogIndex]) -> tuple[dict[int, LogEntry], set[int]]:
        """Read every entry; plan how to make again what can be. Returns the entries, made ones included, by version."""
        found: set[int] = set()
        for item in self._store.list(LOG_PREFIX):
            try:
                found.add(version_of(item.key))
            except ValueError:
                self._result.add(item.key, "is no name of a log entry", "remove it", repair=(None,))
        entries: dict[int, LogEntry] = {}
        damaged: dict[int, str] = {}
        for version in range(1, max([*found, *indexes], default=0) + 1):
            data = get_or_none(self._store, log_key(version))
            if data is None:
                damaged[version] = "is missing, but later versions are there"
                continue
            self._result.objects += 1
            try:
                entries[version] = read_entry(version, data)
            except StoreError as error:
                damaged[version] = str(error).removeprefix(f"{log_key(version)} ").removesuffix(f": {REPAIR}")
        made = rebuilt_entries(sorted(damaged), entries, indexes.values())
        for version, what in damaged.items():
            key = log_key(version)
            if version in made:
                data = made[version].model_dump_json(exclude_none=True).encode()
                self._result.add(
                    key, what, "--repair makes it again from an index; restart all processes", repair=(data,)
                )
            elif self._fill_holes:
                made[version] = filler_entry(version, entries)
                data = made[version].model_dump_json(exclude_none=True).encode()
                self._result.add(key, what, "--repair --fill-holes writes one without episodes", repair=(data,))
            else:
                self._result.add(
                    key,
                    what,
                    f"{_RESTORE}: no index covers it. Without a copy: --repair --fill-holes (its episodes are "
                    "committed again, as far as their objects are there; its revocations are forgotten: revoke again)",
                )
        return entries | made, found

    def _indexes(self) -> dict[int, LogIndex]:
        found: dict[int, LogIndex] = {}
        for item in self._store.list(INDEX_PREFIX):
            self._result.objects += 1
            try:
                index = read_index(self._store.get(item.key))
                if item.key != index_key(index.version):
                    raise IndexDamaged(f"it is of version {index.version}")
                found[index.version] = index
            except ObjectMissing:
                continue  # retention
            except IndexDamaged as error:
                self._result.add(item.key, str(error), "--repair sets it aside; the log has everything", repair=(None,))
        return found

    def _compare_index(self, index: LogIndex, snapshot: Snapshot) -> None:
        there = {(row["key"], row["sha256"], row["version"]) for row in index.rows}
        logged = {(item.entry.key, item.entry.sha256, item.version) for item in snapshot.episodes.values()}
        same_entry = snapshot.version == index.version and snapshot.sha256 == index.sha256
        if there != logged or not same_entry:
            self._result.add(
                index_key(index.version),
                f"{len(there ^ logged)} episodes differ from the log"
                if there != logged
                else f"it was made from another entry {index.version}",
                "--repair sets it aside; the log has everything",
                repair=(None,),
            )

    def _new_index(self, snapshot: Snapshot) -> None:
        key = index_key(snapshot.version)
        if key not in self._result.replacements and get_or_none(self._store, key) is not None:
            return
        self._result.replacements[key] = index_of(snapshot)

    def _known(self, known: KnownEntry) -> None:
        try:
            require_entry(self._store, known.version, known.sha256, "this run")
        except OlderLog as error:
            if log_key(known.version) not in self._result.replacements:
                self._result.add(log_key(known.version), str(error).partition(":")[0], str(error).partition(": ")[2])

    def _identity(self, identity: StoreIdentity | None, known: KnownEntry | None, *, has_log: bool) -> None:
        remedy = "is the disk mounted, is the URL right?"
        try:
            found, what = read_identity(self._store), "is missing"
        except StoreError:
            found, what = None, "is damaged"
        if found is not None:
            self._result.objects += 1
            if identity is not None and found.store_id != identity.store_id:
                what = f"is of store {found.store_id[:12]}; the run's is {identity.store_id[:12]}"
                self._result.add(IDENTITY_KEY, what, f"{remedy} If it is meant: --accept-restored")
        elif identity is not None and known is not None and not self._differs(known):
            # The log is the run's, to the newest entry that it knows.
            data = identity.model_dump_json().encode()
            self._result.add(IDENTITY_KEY, what, "--repair writes the one that the run knows", repair=(data,))
        elif identity is not None or what == "is damaged":
            self._result.add(IDENTITY_KEY, what, f"{remedy} If this is the run's store: --accept-restored")
        elif not has_log:
            self._result.add(IDENTITY_KEY, f"{what}, and there is no log", remedy)

    def _differs(self, known: KnownEntry) -> bool:
        try:
            require_entry(self._store, known.version, known.sha256, "this run")
        except OlderLog:
            return True
        return False

    # ---- what the log names ----------------------------------------------------------------------------------

    def _episodes(self, snapshot: Snapshot, entries: Mapping[int, LogEntry], *, whole: bool) -> None:
        live = list(snapshot.episodes.values())
        if not whole:
            # Behind a hole nobody can fold; what was ever added and nowhere revoked must be there.
            gone = {name for entry in entries.values() for name in entry.revoked}
            live = [
                CommittedEpisode(entry=item, version=version, committed_at_s=entry.committed_at_s)
                for version, entry in entries.items()
                for item in entry.added
                if not gone & {item.episode_id, f"{item.robot_id}/{item.episode_id}"}
            ]
        self._result.episodes = len(live)
        stored = {item.key: item for item in self._store.list("episodes")}
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="verify") as pool:
            checked = pool.map(lambda item: self._episode(item, stored.get(item.entry.key)), live)
            for count, (item, what) in enumerate(zip(live, checked, strict=True), start=1):
                self._on_checked(count, len(live))
                self._result.objects += 1
                if what:
                    self._result.add(
                        item.entry.key,
                        what,
                        f"{_RESTORE}, or take it out: lwd data revoke --robot {item.entry.robot_id} --episode "
                        f"{item.entry.episode_id}",
                    )

    def _episode(self, item: CommittedEpisode, stored: StoredObject | None) -> str:
        """Say what is wrong with an episode's object; empty: nothing."""
        entry = item.entry
        if stored is None:
            return f"is missing; version {item.version} added it"
        if stored.size_bytes != entry.bytes:
            return f"has {stored.size_bytes} bytes, version {item.version} says {entry.bytes}"
        try:
            found = hashlib.sha256(self._store.get(entry.key)).hexdigest()
        except ObjectMissing:
            return f"is missing; version {item.version} added it"
        except StoreError as error:
            return f"cannot be read ({error})"
        return (
            "" if found == entry.sha256 else f"has sha256 {found[:12]}, version {item.version} says {entry.sha256[:12]}"
        )

    def _policies(self) -> None:
        listed = list(self._store.list(POLICY_PREFIX))
        for item in (item for item in listed if item.key.endswith(".json")):
            self._result.objects += 1
            remedy = f"{_RESTORE}; robots skip it, and the learner's next version takes its place"
            try:
                manifest = read_manifest(self._store, item.key)
                found = hashlib.sha256(self._store.get(manifest.key)).hexdigest()
            except ObjectMissing as error:
                self._result.add(item.key, f"names what is missing ({error})", remedy)
            except StoreError as error:
                self._result.add(item.key, str(error).partition("; ")[0], remedy)
            else:
                if found != manifest.sha256:
                    what = f"has sha256 {found[:12]}, its manifest says {manifest.sha256[:12]}"
                    self._result.add(manifest.key, what, remedy)

    def _quarantine(self) -> None:
        for item in self._store.list(QUARANTINE_PREFIX):
            self._result.objects += 1
            try:
                QuarantineRecord.model_validate_json(self._store.get(item.key))
            except ObjectMissing:
                continue
            except ValidationError:
                self._result.add(
                    item.key,
                    "is no quarantine record",
                    "--repair sets it aside; the coordinator judges its episode again",
                    repair=(None,),
                )
