"""What every object store must do; the directory and obstore's stores run the same suite.

With LWD_TEST_STORE_URL (such as s3://bucket/prefix, credentials and endpoint in AWS_*) it also runs against that
store, in a new prefix per test.
"""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore

from lwd.data import durable
from lwd.data.store import Created, DirectoryStore, ObjectStore, RemoteStore, open_store, probe_store
from lwd.errors import ConfigError, ObjectExists, ObjectMissing, ObjectTooLarge, StoreError, StoreUnsafe

REMOTE_URL = os.environ.get("LWD_TEST_STORE_URL")


@pytest.fixture(params=["directory", "memory", *(["remote"] if REMOTE_URL else [])])
def store(request, tmp_path) -> ObjectStore:
    if request.param == "directory":
        return open_store(tmp_path / "store")
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


def test_deleting_is_repeatable(store):
    store.create("k", b"x")
    store.delete("k")
    store.delete("k")
    with pytest.raises(ObjectMissing):
        store.get("k")


def test_of_sixteen_racers_exactly_one_wins(store):
    for round_number in range(10):
        key = f"race/{round_number}"

        def race(writer: int, key: str = key) -> bool:
            try:
                store.create(key, f"writer {writer}".encode())
            except ObjectExists:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            winners = [writer for writer, won in enumerate(pool.map(race, range(16))) if won]
        assert len(winners) == 1
        assert store.get(key) == f"writer {winners[0]}".encode()


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
