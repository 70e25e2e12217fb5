"""Leases of snapshot readers: taken, renewed, released, and aged by the store's own times."""

import os
import time

import pytest
from obstore.store import MemoryStore

from lwd.data import leases
from lwd.data.leases import (
    RemovalRecord,
    RemovedEpisode,
    SnapshotLease,
    confirmed_dead,
    find_leases,
    record_removal,
    store_time_s,
)
from lwd.data.store import DirectoryStore, ObjectStore, RemoteStore, StoredObject
from lwd.errors import StoreError

from .small_store import Skewed, Stepping, objects


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path) -> ObjectStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    return RemoteStore(MemoryStore(), "memory:///")


def found(store):
    return find_leases(store, store_time_s(store))


def wait_until(condition) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_lease_is_there_from_the_first_moment_to_the_last(store):
    with SnapshotLease(store, 7) as lease:
        (seen,) = found(store)
        assert (seen.reader_id, seen.version, seen.live) == (lease.reader_id, 7, True)
        with SnapshotLease(store) as other:
            assert {(item.reader_id, item.version) for item in found(store)} == {
                (lease.reader_id, 7),
                (other.reader_id, 0),
            }
    assert found(store) == []
    assert objects(store, "readers") == []
    assert objects(store, "probe") == []


def test_renewals_tell_the_newest_version_and_keep_no_more_than_two_objects(store):
    with SnapshotLease(store, 3, renew_s=0.01) as lease:
        lease.move(9)
        lease.move(4)  # a snapshot that is given up cannot be had again
        wait_until(lambda: found(store) and found(store)[0].version == 9)
        wait_until(lambda: found(store)[0].renewals > 5)
        counts = [len(objects(store, "readers")) for _ in range(20)]
        assert min(counts) >= 1
        assert max(counts) <= 3  # the new one is created before the oldest is deleted


class Unreachable(Stepping):
    down = False

    def create(self, key, data):
        if self.down:
            raise StoreError("no route")
        return super().create(key, data)


def test_a_store_that_cannot_be_reached_for_a_while_does_not_end_the_lease(store):
    flaky = Unreachable(store)
    with SnapshotLease(flaky, 1, renew_s=0.01):
        flaky.down = True
        time.sleep(0.1)
        renewals = found(store)[0].renewals
        flaky.down = False
        wait_until(lambda: found(store)[0].renewals > renewals)
    assert objects(store, "readers") == []


@pytest.mark.parametrize("offset_s", [-3600.0, 3600.0])
def test_a_store_whose_clock_is_an_hour_off_changes_no_age(store, offset_s):
    skewed = Skewed(store)
    skewed.offset_s = offset_s
    with SnapshotLease(skewed, 1):
        (seen,) = found(skewed)
        assert seen.live
        assert -2 <= seen.age_s <= 60


def test_a_lease_of_a_killed_reader_expires(tmp_path):
    store = DirectoryStore(tmp_path)
    key = "readers/host-1-abc/000000000004-000000000002"
    store.create(key, b"{}")
    now_s = time.time()
    os.utime(tmp_path / key, (now_s - leases.EXPIRES_S - 5,) * 2)
    (seen,) = found(store)
    assert (seen.version, seen.renewals, seen.live) == (2, 4, False)
    os.utime(tmp_path / key, (now_s - leases.EXPIRES_S + 60,) * 2)
    assert found(store)[0].live


def test_a_reader_that_looks_dead_and_renews_is_not(store):
    """A machine's clock that was set makes the leases in its directory look old."""
    store.create("readers/dead-1-abc/000000000004-000000000002", b"{}")
    with SnapshotLease(store, 1, renew_s=0.02) as lease:
        suspects = found(store)
        assert confirmed_dead(store, suspects, 1.0) == {"dead-1-abc": 4}
        assert lease.reader_id in {item.reader_id for item in suspects}
    assert confirmed_dead(store, [], 1e9) == {}  # nobody to watch, nothing to wait for


def test_a_snapshot_that_lost_an_episode_is_refused_and_others_are_not(store):
    episode = RemovedEpisode(episode_id="bad", added=3, revoked=6)
    record_removal(store, RemovalRecord(snapshot=8, episodes=(episode,)))
    # From 2, too: a reader would go on to 3.
    for version in (2, 3, 5):
        with pytest.raises(StoreError, match=f"snapshots from {version} on can no longer .* bad was revoked at"):
            SnapshotLease(store, version)
        assert objects(store, "readers") == []
    for version in (6, 8, None):
        SnapshotLease(store, version).close()


class Unlisted(DirectoryStore):
    def list(self, prefix, start_after=""):
        return iter(list[StoredObject]())


def test_a_store_that_does_not_list_what_it_has_is_not_trusted_with_time(tmp_path):
    with pytest.raises(StoreError, match="listings are consistent"):
        store_time_s(Unlisted(tmp_path))
