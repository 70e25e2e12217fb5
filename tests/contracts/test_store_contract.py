"""What every object store must do: a directory, obstore's memory, and S3 by a real SeaweedFS server.

With LWD_TEST_STORE_URL (such as s3://bucket/prefix, credentials and endpoint in AWS_*) it also runs against that
store, in a new prefix per test.
"""

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore

from lwd.data import durable
from lwd.data.store import Created, DirectoryStore, ObjectStore, RemoteStore, get_or_none, open_store, probe_store
from lwd.errors import ConfigError, ObjectExists, ObjectMissing, ObjectTooLarge, StoreError, StoreUnsafe

REMOTE_URL = os.environ.get("LWD_TEST_STORE_URL")


@pytest.fixture(params=["directory", "memory", "seaweedfs", *(["remote"] if REMOTE_URL else [])])
def store(request, tmp_path) -> ObjectStore:
    if request.param == "directory":
        return open_store(tmp_path / "store")
    if request.param == "seaweedfs":
        return open_store(request.getfixturevalue("seaweed").store_config(uuid.uuid4().hex))
    if request.param == "remote":
        return open_store(f"{REMOTE_URL}/{uuid.uuid4().hex}")
    return RemoteStore(MemoryStore(), "memory:///")


def test_what_was_created_is_returned(store):
    assert store.create("a/b/c", b"payload") is Created.NEW
    assert store.get("a/b/c") == b"payload"


def test_a_retry_is_recognised_and_other_bytes_are_refused(store):
    store.create("k", b"first")
    assert store.create("k", b"first") is Created.IDENTICAL
    with pytest.raises(ObjectExists, match=r"k is stored with other bytes \(5, not 6\)"):
        store.create("k", b"second")
    assert store.get("k") == b"first"


def test_a_missing_object_is_named(store):
    with pytest.raises(ObjectMissing, match="no/such"):
        store.get("no/such")


def test_an_object_larger_than_the_caller_takes_is_refused(store):
    store.create("k", b"0123456789")
    assert store.get("k", max_bytes=10) == b"0123456789"
    with pytest.raises(ObjectTooLarge, match="k has 10 bytes, more than 9"):
        store.get("k", max_bytes=9)


def test_listing_is_sorted_complete_and_continues_after_a_key(store):
    keys = ["e/r1/10", "e/r1/9", "e/r1-b/1", "e/r10/2", "e/z", "f/other"]
    for key in keys:
        store.create(key, key.encode())
    expected = sorted(keys[:-1])
    assert [item.key for item in store.list("e")] == expected
    for position, key in enumerate(expected):
        assert [item.key for item in store.list("e", start_after=key)] == expected[position + 1 :]
    assert [item.key for item in store.list("nothing")] == []
    assert {item.size_bytes for item in store.list("f")} == {len("f/other")}


def test_a_listing_of_many_pages_is_complete_and_sorted(store):
    """S3 lists a thousand keys a page."""
    keys = [f"many/r{number % 7}/{number:05d}" for number in range(1500)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.create(key, b"x"), keys))
    assert [item.key for item in store.list("many")] == sorted(keys)
    assert [item.key for item in store.list("many", start_after="many/r3/01000")] == [
        key for key in sorted(keys) if key > "many/r3/01000"
    ]


def test_deleting_is_repeatable(store):
    store.create("k", b"x")
    store.delete("k")
    store.delete("k")
    with pytest.raises(ObjectMissing):
        store.get("k")


def test_of_sixteen_racers_exactly_one_wins(store):
    """Ten races at the same time, because SeaweedFS lets some losers wait for a second."""
    entries = [(f"race/{number}", f"writer {writer}".encode()) for number in range(10) for writer in range(16)]
    barrier = threading.Barrier(len(entries))

    def race(entry: tuple[str, bytes]) -> bool:
        barrier.wait(timeout=60)
        try:
            store.create(*entry)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(len(entries)) as pool:
        winners = [entry for entry, won in zip(entries, pool.map(race, entries), strict=True) if won]
    assert sorted(key for key, _ in winners) == sorted(f"race/{number}" for number in range(10))
    for key, payload in winners:
        assert store.get(key) == payload


def test_the_probe_accepts_it_and_leaves_nothing(store):
    probe_store(store)
    assert list(store.list("probe")) == []


class OverwritingStore(DirectoryStore):
    """A store as SeaweedFS 3.96 was: it ignores the create-only condition."""

    def create(self, key: str, data: bytes) -> Created:
        durable.replace(self._path(key), data)
        return Created.NEW


def test_the_probe_refuses_a_store_that_overwrites(tmp_path):
    with pytest.raises(StoreUnsafe, match="create-only"):
        probe_store(OverwritingStore(tmp_path))


class RacyStore(DirectoryStore):
    """A store that looks before it writes: right for one writer, wrong for two at once."""

    def create(self, key: str, data: bytes) -> Created:
        if get_or_none(self, key) is not None:
            raise ObjectExists(key)
        durable.replace(self._path(key), data)
        return Created.NEW


def test_the_probe_refuses_a_store_that_looks_before_it_writes(tmp_path):
    with pytest.raises(StoreUnsafe, match="2 of 2 writers created one key"):
        probe_store(RacyStore(tmp_path))


@pytest.mark.parametrize("key", ["../outside", "/absolute", "a//b", "a/./b", "", "a/.tmp-1"])
def test_keys_cannot_leave_the_directory(tmp_path, key):
    with pytest.raises(StoreError, match="plain name"):
        DirectoryStore(tmp_path / "store").create(key, b"x")
    assert list(tmp_path.rglob("outside")) == []


def test_a_leftover_of_a_crash_is_no_object(tmp_path):
    store = DirectoryStore(tmp_path)
    store.create("e/a", b"x")
    (tmp_path / "e" / ".tmp-123-0-b").write_bytes(b"half")
    assert [item.key for item in store.list("e")] == ["e/a"]


def test_links_and_pipes_are_no_objects(tmp_path):
    store = DirectoryStore(tmp_path)
    store.create("e/a", b"x")
    os.mkfifo(tmp_path / "e" / "pipe")
    (tmp_path / "e" / "link").symlink_to(tmp_path / "e" / "a")
    (tmp_path / "e" / "loop").symlink_to(tmp_path / "e")
    assert [item.key for item in store.list("e")] == ["e/a"]
    for key in ("e/pipe", "e/link", "e/loop", "e", "e/a/b"):
        with pytest.raises(ObjectMissing):
            store.get(key)


def test_a_wrong_url_is_explained():
    with pytest.raises(ConfigError, match="nonsense"):
        open_store("nonsense://bucket/prefix")
