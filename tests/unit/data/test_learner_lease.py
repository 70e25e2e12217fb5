"""The lease of the one learner that publishes to a store: who gets it, who is refused, who notices its loss."""

import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from lwd.data import learner_lease
from lwd.data.learner_lease import EXPIRES_S, LearnerLease, lock_identity
from lwd.data.store import DirectoryStore, ObjectStore, RemoteStore
from lwd.errors import LeaseTaken, StoreError

from .small_store import Stepping, objects


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path) -> ObjectStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    return RemoteStore(MemoryStore(), "memory:///")


def wait_until(condition) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def killed(store: ObjectStore, run_lock: str) -> LearnerLease:
    """What a learner leaves that was killed with -9."""
    lease = LearnerLease(store, run_lock, renew_s=3600)
    lease._stop.set()
    lease._thread.join()
    return lease


def aged(root: Path, seconds: float) -> None:
    """Make everything of the lease older."""
    for path in (root / "learner").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def test_a_second_learner_is_refused_with_who_and_since_when(store):
    with LearnerLease(store, "one"), pytest.raises(LeaseTaken) as refused:
        LearnerLease(store, "two")
    for part in (socket.gethostname(), f"process {os.getpid()}", "UTC", "stop it", "its lease ends in 1"):
        assert part in str(refused.value)


def test_a_lease_that_was_given_up_is_free_at_once(store):
    for _ in range(3):
        LearnerLease(store, "one").close()
        LearnerLease(store, "two").close()
    # Of all the generations two are kept.
    assert len({key.split("/")[1] for key in objects(store, "learner")}) == 2


def test_a_killed_learner_of_the_same_run_is_followed_at_once(store):
    first = killed(store, "one")
    with pytest.raises(LeaseTaken):
        LearnerLease(store, "two")
    begun_s = time.monotonic()
    with LearnerLease(store, "one") as second:
        assert time.monotonic() - begun_s < 10
        assert second.generation == first.generation + 1
        with pytest.raises(LeaseTaken, match=f"process {os.getpid()}"):
            first.require_held()
        second.require_held()


def test_a_dead_learners_lease_expires_by_the_stores_times(tmp_path):
    store = DirectoryStore(tmp_path)
    killed(store, "one")
    aged(tmp_path, EXPIRES_S - 30)
    with pytest.raises(LeaseTaken, match=r"last seen 9\d s ago.* its lease ends in \d\d s"):
        LearnerLease(store, "two")
    aged(tmp_path, EXPIRES_S + 5)
    LearnerLease(store, "two", renew_s=0.05).close()


@pytest.mark.parametrize("offset_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_takes_no_lease_from_a_living_learner(tmp_path, offset_s):
    """A live lease looks an hour old, or as if it came from the future: it is watched before it is taken."""
    store = DirectoryStore(tmp_path)
    with LearnerLease(store, "one", renew_s=0.2):
        stop = threading.Event()

        def turn_back() -> None:
            while not stop.wait(0.02):
                try:
                    aged(tmp_path, offset_s)
                except FileNotFoundError:
                    continue

        clock = threading.Thread(target=turn_back)
        clock.start()
        try:
            with pytest.raises(LeaseTaken):
                LearnerLease(store, "two", renew_s=1.0)
        finally:
            stop.set()
            clock.join()


def test_a_learner_that_slept_finds_its_lease_taken(tmp_path, caplog):
    store = DirectoryStore(tmp_path)
    with LearnerLease(store, "one", renew_s=0.05) as sleeper:
        sleeper._renew = lambda: None  # type: ignore[method-assign]
        aged(tmp_path, EXPIRES_S + 5)
        with LearnerLease(store, "two", renew_s=0.05) as other:
            with pytest.raises(LeaseTaken, match=r"stood still for more than 120 s.* publishes nothing more"):
                sleeper.require_held()
            # Its own thread finds it, too.
            wait_until(lambda: not sleeper._thread.is_alive())
            with pytest.raises(LeaseTaken):
                sleeper.check()
            other.require_held()
        newest = max(objects(store, "learner"))
    # It gave up nothing that was not its own.
    assert newest == "learner/lease-000000000002/released"


def test_of_many_learners_at_once_one_gets_the_lease(store):
    barrier = threading.Barrier(6)

    def start(number: int) -> LearnerLease | None:
        barrier.wait()
        try:
            return LearnerLease(store, f"run {number}")
        except LeaseTaken:
            return None

    with ThreadPoolExecutor(6) as pool:
        leases = [lease for lease in pool.map(start, range(6)) if lease is not None]
    assert len(leases) == 1
    leases[0].require_held()
    leases[0].close()


class Unreachable(Stepping):
    down = False

    def create(self, key, data):
        if self.down:
            raise StoreError("503")
        return super().create(key, data)


def test_a_store_that_fails_for_a_while_is_said_once(store, caplog, monkeypatch):
    monkeypatch.setattr("lwd.data.outage.FIRST_REST_S", 0.01)
    flaky = Unreachable(store)
    caplog.set_level(logging.WARNING)
    with LearnerLease(flaky, "one", renew_s=0.01) as lease:
        flaky.down = True
        time.sleep(0.3)
        flaky.down = False
        count = lease._count
        wait_until(lambda: lease._count > count + 2)
        lease.require_held()
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "cannot be renewed (503)" in text]) == 1
    assert len([text for text in said if text.startswith("works again after")]) == 1


def test_renewals_keep_few_objects(store):
    with LearnerLease(store, "one", renew_s=0.01) as lease:
        wait_until(lambda: lease._count > 10)
        assert len(objects(store, "learner")) <= 4


def test_damaged_and_foreign_objects_in_its_place(store):
    store.create("learner/notes.txt", b"?")
    store.create("learner/lease-000000000003/claim", b"{not json")
    with pytest.raises(LeaseTaken, match="a learner whose claim cannot be read"):
        LearnerLease(store, "one")
    assert learner_lease.PREFIX == "learner"


def test_lock_identities_differ_by_file(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    assert lock_identity(tmp_path / "a") == lock_identity(tmp_path / "a") != lock_identity(tmp_path / "b")
