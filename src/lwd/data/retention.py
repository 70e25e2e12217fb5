"""Retention: what a store may forget, and forgetting it without hurting a reader.

Never removed: the log, an episode of the newest snapshot, an uploaded episode that the log does not know yet, and
what a live lease may still read. Everything is first planned, then recorded, then checked against the leases
again, then removed in an order in which a run that is killed leaves nothing dangling; the next run goes on.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import ValidationError

from lwd.data.history import LogHistory, RevokedEpisode, read_history
from lwd.data.leases import (
    RENEW_S,
    FoundLease,
    RemovalRecord,
    RemovedEpisode,
    confirmed_dead,
    find_leases,
    record_removal,
    store_time_s,
)
from lwd.data.log import LOG_PREFIX, log_key
from lwd.data.log_index import INDEX_PREFIX
from lwd.data.policies import POLICY_PREFIX, manifest_key, policy_objects, read_manifest
from lwd.data.quarantine import QUARANTINE_PREFIX, QuarantineRecord, list_cases
from lwd.data.relabelling import RELABELLED_PREFIX
from lwd.data.store import ObjectStore, StoredObject
from lwd.errors import ConfigError, ManifestDamaged, ObjectMissing, StoreError

_DAY_S = 86_400.0
_LEFTOVER_S = 3600.0
_REMOVABLE = ("episodes", RELABELLED_PREFIX, INDEX_PREFIX, POLICY_PREFIX, QUARANTINE_PREFIX, "probe", "readers")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetentionRules:
    """How long what is not needed any more is kept. All ages are by the store's own times."""

    revoked_days: float = 7.0
    """Since the revocation. A stopped learner whose checkpoint is older than the revocation cannot be resumed
    once the episodes are gone."""
    quarantined_days: float = 30.0
    policy_days: float = 1.0
    keep_policies: int = 20
    keep_indexes: int = 3

    def __post_init__(self) -> None:
        for name in ("revoked_days", "quarantined_days", "policy_days"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; give a number of days, 0 or more")
        for name in ("keep_policies", "keep_indexes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; the newest one always stays: give 1 or more")


class Kind(StrEnum):
    """What is removed."""

    REVOKED = "revoked episodes"
    QUARANTINED = "quarantined objects"
    POLICY = "old policies"
    INDEX = "old indexes"
    PROBE = "leftovers of probes"
    RELABELLED = "copies of unfinished relabellings"
    READER = "leases of dead readers"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One object that goes."""

    key: str
    size_bytes: int
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class RetentionPlan:
    """What goes, in the order in which it goes, and what only the readers keep."""

    rules: RetentionRules
    version: int
    """The newest snapshot."""
    removals: Sequence[Removal]
    doomed: Sequence[RevokedEpisode]
    """The episodes whose objects are among the removals."""
    held: Sequence[RevokedEpisode]
    """Old enough to go, and kept for a reader."""
    readers: Sequence[FoundLease]
    """Every lease that keeps something, or is dead."""

    def amounts(self) -> dict[Kind, tuple[int, int]]:
        """Return objects and bytes per kind."""
        counts: Counter[Kind] = Counter(item.kind for item in self.removals)
        return {
            kind: (counts[kind], sum(item.size_bytes for item in self.removals if item.kind is kind)) for kind in Kind
        }


def plan_retention(store: ObjectStore, rules: RetentionRules) -> RetentionPlan:
    """Say what would be removed now; removes nothing.

    A lease that has expired keeps what it keeps until it was watched: see `apply_retention`.

    Raises:
        StoreError: if the store fails or its log is damaged.
    """
    now_s = store_time_s(store)
    history = read_history(store)
    leases = find_leases(store, now_s)
    return _plan(store, rules, now_s, history, leases)


def apply_retention(
    store: ObjectStore,
    rules: RetentionRules,
    *,
    watch_s: float = 1.5 * RENEW_S,
    on_removed: Callable[[int, int], None] = lambda done, total: None,
) -> RetentionPlan:
    """Remove what the rules allow and no reader may need. May be killed, repeated, and run twice at once.

    Args:
        watch_s: how long a reader whose lease looks expired is watched before it counts as dead; at least the
            readers' renewal time.
        on_removed: called with (removed, to be removed).
    Returns:
        the plan as it was carried out.
    Raises:
        StoreError: if the store fails; what is left is removed by the next run.
    """
    now_s = store_time_s(store)
    history = read_history(store)
    leases = find_leases(store, now_s)
    dead = confirmed_dead(store, (lease for lease in leases if not lease.live), watch_s)
    plan = _plan(store, rules, now_s, history, _not_among(dead, leases))
    if plan.doomed:
        # First the record, then the leases: a reader that this listing misses reads the record (see leases.py).
        _record(store, plan)
        leases = find_leases(store, now_s)
        plan = _sparing(plan, _not_among(dead, leases))
    alive = {lease.reader_id for lease in _not_among(dead, leases)}
    rest = [
        Removal(key=key, size_bytes=0, kind=Kind.READER)
        for lease in leases
        if lease.reader_id not in alive
        for key in lease.keys
    ]
    plan = replace(plan, removals=[*plan.removals, *rest])
    for done, item in enumerate(plan.removals, start=1):
        _remove(store, item.key)
        on_removed(done, len(plan.removals))
    return plan


def _not_among(dead: Mapping[str, int], leases: Iterable[FoundLease]) -> list[FoundLease]:
    """Return the leases without the dead ones; one that was renewed since it was found dead lives."""
    return [lease for lease in leases if dead.get(lease.reader_id) != lease.renewals]


def _record(store: ObjectStore, plan: RetentionPlan) -> None:
    episodes = tuple(
        RemovedEpisode(episode_id=item.episode.entry.identity, added=item.episode.version, revoked=item.version)
        for item in plan.doomed
    )
    record_removal(store, RemovalRecord(snapshot=plan.version, episodes=episodes))


def _sparing(plan: RetentionPlan, leases: Sequence[FoundLease]) -> RetentionPlan:
    """Return the plan without what the leases need; it never gets larger, so nothing goes that is not recorded."""
    spared = [item for item in plan.doomed if _needed(item, leases)]
    keys = {item.episode.entry.key for item in spared}
    return replace(
        plan,
        removals=[item for item in plan.removals if item.key not in keys],
        doomed=[item for item in plan.doomed if item.episode.entry.key not in keys],
        held=[*plan.held, *spared],
        readers=_keeping(leases, [*plan.held, *spared]),
    )


def _needed(item: RevokedEpisode, leases: Iterable[FoundLease]) -> bool:
    return any(item.version > lease.version for lease in leases)


def _keeping(leases: Iterable[FoundLease], held: Sequence[RevokedEpisode]) -> list[FoundLease]:
    return [lease for lease in leases if not lease.live or any(_needed(item, [lease]) for item in held)]


def _plan(
    store: ObjectStore, rules: RetentionRules, now_s: float, history: LogHistory, leases: Sequence[FoundLease]
) -> RetentionPlan:
    copies = list(store.list(RELABELLED_PREFIX))
    episodes = {item.key: item for item in (*store.list("episodes"), *copies)}
    live = {item.entry.key for item in history.snapshot.episodes.values()}
    gone = _revoked(store, now_s - rules.revoked_days * _DAY_S, history)
    stored = [item for item in gone if item.episode.entry.key in episodes.keys() - live]
    doomed = [item for item in stored if not _needed(item, leases)]
    held = [item for item in stored if _needed(item, leases)]
    known = live | {item.episode.entry.key for item in history.revoked.values()}
    indexes = sorted(store.list(INDEX_PREFIX), key=lambda item: item.key)
    probes = [item for item in store.list("probe") if now_s - item.modified_s > _LEFTOVER_S]
    # The copy of a relabelling that was killed; one that goes on commits it within seconds.
    unfinished = [item for item in copies if item.key not in known and now_s - item.modified_s > _LEFTOVER_S]
    removals = [
        *(_removal(episodes[item.episode.entry.key], Kind.REVOKED) for item in doomed),
        *_quarantined(store, now_s - rules.quarantined_days * _DAY_S, episodes, known),
        *_policies(store, rules, now_s),
        *(_removal(item, Kind.INDEX) for item in indexes[: -rules.keep_indexes]),
        *(_removal(item, Kind.PROBE) for item in probes),
        *(_removal(item, Kind.RELABELLED) for item in unfinished),
    ]
    return RetentionPlan(
        rules=rules,
        version=history.snapshot.version,
        removals=removals,
        doomed=doomed,
        held=held,
        readers=_keeping(leases, held),
    )


def _revoked(store: ObjectStore, before_s: float, history: LogHistory) -> list[RevokedEpisode]:
    """Return what was revoked long enough ago, by the times at which the store got the log's entries."""
    committed_s = {item.key: item.modified_s for item in store.list(LOG_PREFIX)}
    return [item for item in history.revoked.values() if committed_s[log_key(item.version)] <= before_s]


def _quarantined(
    store: ObjectStore, before_s: float, episodes: dict[str, StoredObject], known: set[str]
) -> Iterator[Removal]:
    for case in list_cases(store).values():
        # A released object is judged anew first.
        if case.newest is None or case.newest.modified_s > before_s:
            continue
        try:
            record = QuarantineRecord.model_validate_json(store.get(case.newest.key))
        except ObjectMissing:
            continue  # another run of retention
        except ValidationError:
            _logger.warning("%s is no quarantine record: kept", case.newest.key)
            continue
        if record.key in known:
            continue  # one of two coordinators refused what the other committed: the log decides
        # The object first: a record without an object is found again, an object without a record would be judged anew.
        if record.key in episodes:
            yield _removal(episodes[record.key], Kind.QUARANTINED)
        yield from (_removal(item, Kind.QUARANTINED) for item in case.records)


def _policies(store: ObjectStore, rules: RetentionRules, now_s: float) -> Iterator[Removal]:
    found = policy_objects(store)
    newest = sorted(found)[-rules.keep_policies :]
    # The version that robots are told to use, as long as the newest numbers were never published.
    published = sorted(version for version in found if "json" in found[version])
    kept = {*newest, *published[-1:]}
    for version in sorted(kept):
        if "json" in found[version]:
            try:
                kept |= set(read_manifest(store, manifest_key(version)).parents)
            except ManifestDamaged as error:
                _logger.warning("%s: its parents are not known", error)
    for version in sorted(found.keys() - kept):
        if all(now_s - item.modified_s >= rules.policy_days * _DAY_S for item in found[version].values()):
            # The manifest first: a version without one was never published, so nobody looks for its weights.
            yield from (_removal(found[version][part], Kind.POLICY) for part in sorted(found[version]))


def _removal(item: StoredObject, kind: Kind) -> Removal:
    return Removal(key=item.key, size_bytes=item.size_bytes, kind=kind)


def _remove(store: ObjectStore, key: str) -> None:
    if key.partition("/")[0] not in _REMOVABLE:
        raise StoreError(f"{key} must never be removed: this is a bug of retention, please report it")
    store.delete(key)
