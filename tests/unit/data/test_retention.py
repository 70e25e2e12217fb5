"""Retention: what goes, what stays, and that no bound reader ever misses an object, whatever happens when."""

import contextlib
import itertools
import os
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from obstore.store import MemoryStore

from lwd.data.leases import EXPIRES_S, RENEW_S, SnapshotLease
from lwd.data.log import INDEX_EVERY, index_of
from lwd.data.log_index import index_key
from lwd.data.policies import PolicyPublisher, fetch_policy, newest_policy, read_manifest
from lwd.data.quarantine import quarantine, read_quarantine
from lwd.data.retention import Kind, RetentionRules, apply_retention, plan_retention
from lwd.data.revocation import newest_log
from lwd.data.store import DirectoryStore, RemoteStore
from lwd.errors import ConfigError, StoreError

from .small_store import Skewed, Stepping, commit, content, missing_from, objects, revoked_and_there, upload

DAY_S = 86_400.0
AT_ONCE = RetentionRules(revoked_days=0, quarantined_days=0, policy_days=0, keep_policies=1, keep_indexes=1)


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


def memory() -> RemoteStore:
    return RemoteStore(MemoryStore(), "memory:///")


def grow_older(root, prefix: str, seconds: float) -> None:
    for path in root.glob(prefix):
        if path.is_file():
            status = path.stat()
            os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


def kinds(plan) -> dict[Kind, int]:
    return {kind: count for kind, (count, _) in plan.amounts().items() if count}


# ---- what goes -------------------------------------------------------------------------------------------------


def test_revoked_episodes_go_when_they_are_old_enough_and_nothing_else_does(store, tmp_path):
    commit(store, "a", "b")
    commit(store, "c")
    upload(store, "not-judged-yet")
    assert commit(store, revoked=("a",)) == 3
    everything = [*objects(store, "episodes"), *objects(store, "log")]
    assert kinds(plan_retention(store, RetentionRules())) == {}  # revoked a moment ago
    grow_older(tmp_path, "log/*3.json", 7 * DAY_S + 10)
    plan = plan_retention(store, RetentionRules())
    assert [item.key for item in plan.removals] == ["episodes/r1/a.arrow"]
    assert [*objects(store, "episodes"), *objects(store, "log")] == everything  # a plan removes nothing
    done = apply_retention(store, RetentionRules())
    assert kinds(done) == {Kind.REVOKED: 1}
    assert [*objects(store, "episodes"), *objects(store, "log")] == [k for k in everything if k != everything[0]]
    assert missing_from(store, 3) == []
    assert apply_retention(store, RetentionRules()).removals == []


def test_a_machine_whose_clock_is_wrong_removes_nothing_early(store):
    """Ages are differences of the store's times: with all of them an hour (or a year) off, nothing changes."""
    commit(store, "a")
    commit(store, revoked=("a",))
    skewed = Skewed(store)
    for skewed.offset_s in (-3600.0, 3600.0, 365 * DAY_S):
        assert plan_retention(skewed, RetentionRules(revoked_days=0.01)).removals == []
        assert len(plan_retention(skewed, AT_ONCE).removals) == 1


def test_old_indexes_and_leftovers_of_probes_go(store, tmp_path):
    for number in range(5):
        commit(store, f"e{number}")
        snapshot = newest_log(store).snapshot
        store.create(index_key(snapshot.version), index_of(snapshot))
    store.create("probe/left", b"x")
    store.create("probe/running", b"x")
    grow_older(tmp_path, "probe/left", 3700)
    assert kinds(apply_retention(store, RetentionRules())) == {Kind.INDEX: 2, Kind.PROBE: 1}
    assert objects(store, "index") == [index_key(version) for version in (3, 4, 5)]
    assert objects(store, "probe") == ["probe/running"]
    assert newest_log(store).version == 5
    assert INDEX_EVERY > 5


def test_old_policies_go_but_the_newest_their_parents_and_the_young_stay(store, tmp_path):
    publisher = PolicyPublisher(store)
    for version in range(8):
        parents = (2,) if version == 7 else (version - 1,) if version else ()
        publisher.publish(b"weights %d" % version, update=version, snapshot=0, parents=parents)
    rules = RetentionRules(keep_policies=2)
    assert kinds(plan_retention(store, rules)) == {}  # all of today
    grow_older(tmp_path, "policies/00000000000[0-4]*", DAY_S + 10)
    assert kinds(apply_retention(store, rules)) == {Kind.POLICY: 8}
    # 6 and 7 are the newest, 2 and 5 their parents, 5 is young besides.
    assert sorted({int(key[9:21]) for key in objects(store, "policies")}) == [2, 5, 6, 7]
    for key in objects(store, "policies"):
        if key.endswith(".json"):
            fetch_policy(store, read_manifest(store, key))
    assert PolicyPublisher(store).publish(b"next", update=9, snapshot=0).version == 8


def test_the_newest_published_policy_stays_behind_numbers_that_were_never_published(store):
    publisher = PolicyPublisher(store)
    publisher.publish(b"old", update=0, snapshot=0)
    publisher.publish(b"good", update=0, snapshot=0)
    store.create("policies/000000000002.safetensors", b"its publisher died")
    apply_retention(store, AT_ONCE)
    assert fetch_policy(store, newest_policy(store)) == b"good"
    assert PolicyPublisher(store).publish(b"next", update=1, snapshot=0).version == 3


def test_a_manifest_never_outlives_its_weights():
    left, at = set(), 0
    while True:
        at += 1
        store = memory()
        for version in range(3):
            PolicyPublisher(store).publish(b"weights %d" % version, update=0, snapshot=0)
        killed = Stepping(store, at, hook=_die)
        with contextlib.suppress(Killed):
            apply_retention(killed, AT_ONCE)
        keys = objects(store, "policies")
        for key in keys:
            if key.endswith(".json"):
                fetch_policy(store, read_manifest(store, key))
        left.add(len(keys))
        if not killed.reached:
            break
    assert left == {6, 5, 4, 3, 2}


def test_quarantined_objects_go_after_their_time_with_their_records(store, tmp_path):
    commit(store, "good")
    for name in ("old", "new"):
        upload(store, name)
        quarantine(store, f"episodes/r1/{name}.arrow", f"{name} is broken")
    quarantine(store, "episodes/r1/vanished.arrow", "no object any more")
    # One of two coordinators refused what the other had committed.
    quarantine(store, "episodes/r1/good.arrow", "other limits")
    for path in tmp_path.glob("quarantine/*"):
        if b"/new.arrow" not in path.read_bytes():
            grow_older(tmp_path, f"quarantine/{path.name}", 30 * DAY_S + 10)
    assert kinds(apply_retention(store, RetentionRules())) == {Kind.QUARANTINED: 3}
    assert objects(store, "episodes") == ["episodes/r1/good.arrow", "episodes/r1/new.arrow"]
    assert {record.key[12:-6] for record in read_quarantine(store)} == {"new", "good"}


def test_rules_that_make_no_sense_are_refused():
    for wrong in ({"keep_policies": 0}, {"keep_indexes": -1}, {"revoked_days": -1.0}, {"policy_days": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RetentionRules(**wrong)


# ---- readers ---------------------------------------------------------------------------------------------------


def two_revocations(store) -> None:
    """Version 1 adds a, b, c; 2 revokes a; 3 adds d; 4 revokes b; 5 adds e."""
    commit(store, "a", "b", "c")
    commit(store, revoked=("a",))
    commit(store, "d")
    commit(store, revoked=("b",))
    commit(store, "e")


@pytest.mark.parametrize(("version", "kept"), [(None, ["a", "b"]), (1, ["a", "b"]), (2, ["b"]), (3, ["b"]), (4, [])])
def test_a_lease_keeps_what_was_revoked_after_its_version(version, kept):
    store = memory()
    two_revocations(store)
    with SnapshotLease(store, version) as lease:
        plan = apply_retention(store, AT_ONCE)
        assert revoked_and_there(store) == kept == [item.episode.entry.episode_id for item in plan.held]
        assert [reader.reader_id for reader in plan.readers] == ([lease.reader_id] if kept else [])
        assert missing_from(store, 5 if version is None else version) == []
    apply_retention(store, AT_ONCE)
    assert revoked_and_there(store) == []


def test_a_reader_that_moves_on_gives_up_what_it_left_behind():
    store = memory()
    two_revocations(store)
    with SnapshotLease(store, 1, renew_s=0.01) as lease:
        apply_retention(store, AT_ONCE)
        assert revoked_and_there(store) == ["a", "b"]
        lease.move(2)
        deadline_s = time.monotonic() + 30
        while revoked_and_there(store) != ["b"]:
            apply_retention(store, AT_ONCE)
            assert time.monotonic() < deadline_s
        assert missing_from(store, 2) == []


def test_a_dead_readers_lease_ends_and_a_living_ones_does_not_though_it_looks_old(tmp_path):
    store = DirectoryStore(tmp_path)
    two_revocations(store)
    store.create("readers/killed-1-x/000000000000-000000000001", b"{}")
    aged = Skewed(store)
    aged.prefix, aged.offset_s = "readers/", -(EXPIRES_S + 60)
    with SnapshotLease(store, 2, renew_s=0.02) as lease:
        plan = apply_retention(aged, AT_ONCE, watch_s=1.0)
        assert {reader.reader_id for reader in plan.readers} == {lease.reader_id}
        assert revoked_and_there(store) == ["b"]
        assert kinds(plan) == {Kind.REVOKED: 1, Kind.READER: 1}
        assert missing_from(store, 2) == []
        assert all(lease.reader_id in key for key in objects(store, "readers"))
    assert RENEW_S * 1.5 < EXPIRES_S


class Killed(Exception):
    """The process died."""


def _die() -> None:
    raise Killed


def bind(store, version: int) -> SnapshotLease | None:
    """A lease of a snapshot, None if retention has taken of it what nobody held."""
    try:
        return SnapshotLease(store, version)
    except StoreError as error:
        if "can no longer be read in full" not in str(error):
            raise
        return None


def start_readers(store, bound: dict[int, SnapshotLease]) -> None:
    """Try to bind a reader to every snapshot; one goes to the newest, as a learner that begins."""
    newest = SnapshotLease(store)
    reader = newest_log(store)
    bound[reader.version] = newest
    for version in range(1, reader.version):
        if (lease := bind(store, version)) is not None:
            bound[version] = lease


def check_and_close(store, bound: dict[int, SnapshotLease]) -> None:
    for version, lease in bound.items():
        assert missing_from(store, version) == [], f"a reader bound to {version}"
        lease.close()


def test_readers_that_start_at_any_moment_of_a_retention_run():
    outcomes = set()
    at = 0
    while True:
        at += 1
        store, bound = memory(), {}
        two_revocations(store)
        stepping = Stepping(store, at)
        stepping.hook = lambda store=store, bound=bound: start_readers(store, bound)
        apply_retention(stepping, AT_ONCE)
        if not stepping.reached:
            break
        outcomes.add((*sorted(bound), *revoked_and_there(store)))
        check_and_close(store, bound)
    # Early readers were spared, late ones were refused, and whoever goes to the newest snapshot never is.
    assert (1, 2, 3, 4, 5, "a", "b") in outcomes
    assert (4, 5) in outcomes
    assert all(5 in outcome for outcome in outcomes)


def test_a_retention_run_at_any_moment_of_a_readers_start():
    granted = set()
    for version in range(1, 5):
        at = 0
        while True:
            at += 1
            store = memory()
            two_revocations(store)
            stepping = Stepping(store, at, hook=lambda store=store: apply_retention(store, AT_ONCE))
            lease = bind(stepping, version)
            reached = stepping.reached
            if reached:
                granted.add((version, lease is not None))
            if lease is not None:
                check_and_close(store, {version: lease})
            if not reached:
                break
    assert granted == {(1, True), (1, False), (2, True), (2, False), (3, True), (3, False), (4, True)}


def test_a_reader_that_leaves_during_a_run_makes_room_only_for_what_was_recorded():
    """One reader leaves at one moment of the run, another binds to the same snapshot at a later one."""
    count = Stepping(memory())
    two_revocations(count.inner)
    apply_retention(count, AT_ONCE)
    for at, later in itertools.product(range(1, count.count + 1), range(1, 8)):
        store, bound = memory(), {}
        two_revocations(store)
        # Keeps b alone, so that there is something to remove and to record.
        leaving = SnapshotLease(store, 2)
        stepping = Stepping(store, at)

        def come(store=store, bound=bound) -> None:
            if (lease := bind(store, 2)) is not None:
                bound[2] = lease

        def leave(stepping=stepping, leaving=leaving, come=come, later=later) -> None:
            leaving.close()
            stepping.at, stepping.hook = stepping.count + later, come

        stepping.hook = leave
        apply_retention(stepping, AT_ONCE)
        leaving.close()
        check_and_close(store, bound)


def test_a_run_that_is_killed_at_any_moment_leaves_a_whole_store_and_the_next_goes_on():
    at = 0
    while True:
        at += 1
        store, bound = memory(), {}
        two_revocations(store)
        stepping = Stepping(store, at, hook=_die)
        try:
            apply_retention(stepping, AT_ONCE)
        except Killed:
            start_readers(store, bound)
            check_and_close(store, bound)
            apply_retention(store, AT_ONCE)
            assert revoked_and_there(store) == []
            assert missing_from(store, 5) == []
        else:
            break
    assert at > 10


def test_two_runs_at_once_are_as_good_as_one():
    at = 0
    while True:
        at += 1
        store, bound = memory(), {}
        two_revocations(store)

        def other(store=store, bound=bound) -> None:
            if (lease := bind(store, 3)) is not None:
                bound[3] = lease
            apply_retention(store, AT_ONCE)

        stepping = Stepping(store, at)
        stepping.hook = other
        apply_retention(stepping, AT_ONCE)
        if not stepping.reached:
            break
        check_and_close(store, bound)
        apply_retention(store, AT_ONCE)
        assert revoked_and_there(store) == []


class RetentionMachine(RuleBasedStateMachine):
    """Commits, revocations, readers that come, move and go, and retention runs that are killed or raced."""

    @initialize()
    def begin(self) -> None:
        self.store = memory()
        self.added = 0
        self.bound: list[tuple[int, SnapshotLease]] = []
        commit(self.store, "first")

    @property
    def version(self) -> int:
        return newest_log(self.store).version

    @rule(count=st.integers(1, 3))
    def add(self, count: int) -> None:
        names = [f"e{self.added + offset}" for offset in range(count)]
        self.added += count
        commit(self.store, *names)

    @rule(pick=st.integers(0, 100), count=st.integers(1, 2))
    def revoke(self, pick: int, count: int) -> None:
        live = list(newest_log(self.store).snapshot.episodes)
        if live:
            commit(self.store, revoked=tuple(live[pick % len(live) :][:count]))

    @rule(back=st.integers(0, 4))
    def bind(self, back: int) -> None:
        version = max(1, self.version - back)
        if (lease := bind(self.store, version)) is not None:
            self.bound.append((version, lease))
        else:
            assert version < self.version

    @rule()
    def bind_to_newest(self) -> None:
        lease = SnapshotLease(self.store)
        self.bound.append((self.version, lease))

    @precondition(lambda self: self.bound)
    @rule()
    def leave(self) -> None:
        self.bound.pop(0)[1].close()

    @rule(at=st.integers(1, 30), what=st.sampled_from(["whole", "killed", "reader", "revoke", "twice"]))
    def retain(self, at: int, what: str) -> None:
        hook = {
            "whole": lambda: None,
            "killed": _die,
            "reader": lambda: self.bind(2),
            "revoke": lambda: self.revoke(at, 1),
            "twice": lambda: apply_retention(self.store, AT_ONCE),
        }[what]
        try:
            apply_retention(Stepping(self.store, at, hook), AT_ONCE)
        except Killed:
            return

    @invariant()
    def nobody_misses_anything(self) -> None:
        assert missing_from(self.store, self.version) == []
        for version, _ in self.bound:
            assert missing_from(self.store, version) == []

    def teardown(self) -> None:
        for _, lease in getattr(self, "bound", []):
            lease.close()


TestRetentionMachine = RetentionMachine.TestCase
TestRetentionMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_bytes_are_the_ones_that_were_committed():
    """The checks above compare bytes, so an object that vanished and came back as another would be seen."""
    store = memory()
    commit(store, "a")
    assert store.get("episodes/r1/a.arrow") == content("a")
    store.delete("episodes/r1/a.arrow")
    assert missing_from(store, 1) == ["a"]
