"""A store's identity, who may give it, and what a run refuses."""

import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from lwd.data.identity import IDENTITY_KEY, OtherStore, StoreNote, found_store, read_identity
from lwd.data.log import LogEntry, LogReader, LogWriter
from lwd.data.log_head import KnownEntry, LogNote, OlderLog, log_key
from lwd.data.run_store import LOG_NOTE, STORE_NOTE, open_run_store
from lwd.data.store import DirectoryStore, RemoteStore, get_or_none
from lwd.errors import ObjectExists, ObjectMissing, StoreError

from .small_store import commit


def memory(name: str = "memory:///") -> RemoteStore:
    return RemoteStore(MemoryStore(), name)


# ---- the object ---------------------------------------------------------------------------------------------


def test_identity_is_given_once_and_stays():
    store = memory()
    assert read_identity(store) is None
    given = found_store(store)
    assert found_store(store) == given == read_identity(store)


def test_identity_of_a_race_is_the_winners():
    store = memory()
    winner = found_store(memory())

    class Late(RemoteStore):
        def create(self, key, data):
            get_or_none(store, key) or store.create(key, winner.model_dump_json().encode())
            raise ObjectExists(key)

        def get(self, key, *, max_bytes=None):
            return store.get(key, max_bytes=max_bytes)

    assert found_store(Late(MemoryStore(), "late")) == winner


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"[" * 100_000, b'{"store_id": "../x"}', b"{}" * 5000])
def test_identity_that_is_damaged_is_named_with_its_remedy(garbage):
    store = memory()
    store.create(IDENTITY_KEY, garbage)
    with pytest.raises(StoreError, match=r"store\.json .* damaged: .*verify") as error:
        read_identity(store)
    assert "\\x" not in str(error.value)


def test_note_that_is_damaged_is_named_with_its_remedy(tmp_path):
    (tmp_path / "note").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match=r"note is damaged: .*delete"):
        StoreNote(tmp_path / "note", "run").require(memory())


def test_note_takes_the_first_store_and_refuses_every_other(tmp_path):
    first, second, empty = memory(), memory(), memory()
    found_store(first)
    found_store(second)
    for _ in range(2):  # also read back from the file
        note = StoreNote(tmp_path / "note", "run r")
        note.require(first)
        with pytest.raises(OtherStore, match=r"not the store of run r \(expected .*is the disk mounted"):
            note.require(second)
        with pytest.raises(OtherStore, match="found none"):
            note.require(empty)
    assert read_identity(empty) is None


# ---- the directory ------------------------------------------------------------------------------------------


def test_directory_that_was_replaced_is_refused_until_it_is_back(tmp_path):
    store = DirectoryStore(tmp_path / "store")
    found_store(store)
    store.create("a/b", b"x")
    (tmp_path / "store").rename(tmp_path / "aside")
    for call in (
        lambda: store.get("a/b"),
        lambda: store.create("a/c", b"y"),
        lambda: list(store.list("a")),
        lambda: store.delete("a/b"),
    ):
        with pytest.raises(StoreError, match=r"is gone .*is the disk mounted"):
            call()
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()
    for call in (
        lambda: store.get("a/b"),
        lambda: store.create("a/c", b"y"),
        lambda: list(store.list("a")),
        lambda: store.delete("a/b"),
    ):
        with pytest.raises(StoreError, match="was replaced by another one: is the disk mounted") as error:
            call()
        assert not isinstance(error.value, ObjectMissing)
    assert list((tmp_path / "store").iterdir()) == []
    (tmp_path / "store").rmdir()
    (tmp_path / "aside").rename(tmp_path / "store")
    assert store.get("a/b") == b"x"


def test_directory_with_the_same_identity_is_the_same_store(tmp_path):
    """A disk that comes back as another device, a copy that was put in its place."""
    store = DirectoryStore(tmp_path / "store")
    identity = found_store(store)
    (tmp_path / "store").rename(tmp_path / "aside")
    DirectoryStore(tmp_path / "store").create(IDENTITY_KEY, (tmp_path / "aside" / IDENTITY_KEY).read_bytes())
    assert read_identity(store) == identity


def test_directory_store_closes_its_descriptor(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        DirectoryStore(tmp_path / "store").create(f"k/{os.urandom(4).hex()}", b"x")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


# ---- the run ------------------------------------------------------------------------------------------------


def begun(run):
    store = open_run_store(run, None)
    found_store(store)
    for number in range(4):
        commit(store, f"e{number}")
    return store


def test_run_store_is_not_made_again_once_the_run_knows_it(tmp_path):
    begun(tmp_path)
    (tmp_path / "store").rename(tmp_path / "aside")
    with pytest.raises(StoreError, match="is the disk mounted"):
        list(open_run_store(tmp_path, None).list("log"))
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()
    store = open_run_store(tmp_path, None)
    for _ in range(3):
        with pytest.raises(OtherStore, match=r"expected .* found none"):
            found_store(store)
    assert list((tmp_path / "store").iterdir()) == []


def test_run_store_refuses_an_older_copy_at_every_start(tmp_path):
    begun(tmp_path)
    newest = max((tmp_path / "store" / "log").iterdir())
    newest.unlink()
    for _ in range(5):
        with pytest.raises(OlderLog, match=r"ends before version 4, which this run .* --accept-restored"):
            LogReader(open_run_store(tmp_path, None)).poll()


def test_run_store_refuses_a_log_that_went_another_way(tmp_path):
    begun(tmp_path)
    newest = max((tmp_path / "store" / "log").iterdir())
    newest.write_bytes(newest.read_bytes().replace(b'"e3"', b'"f3"'))
    with pytest.raises(OlderLog, match=r"version 4 of the log .* is not the one"):
        LogReader(open_run_store(tmp_path, None)).poll()


@pytest.mark.parametrize("evidence", ["known-log", "checkpoint"])
def test_run_that_has_known_a_log_begins_no_other(tmp_path, evidence):
    """A run of an earlier version has no note of an identity; its disk is not mounted at the first start."""
    if evidence == "checkpoint":
        (tmp_path / "checkpoints" / "sft" / "update-000000001").mkdir(parents=True)
    else:
        begun(tmp_path)
        (tmp_path / STORE_NOTE).unlink()
        (tmp_path / "store").rename(tmp_path / "aside")
        (tmp_path / LOG_NOTE).write_text((tmp_path / LOG_NOTE).read_text())
    store = open_run_store(tmp_path, None)
    with pytest.raises(StoreError, match=r"disk mounted|newest copy"):
        found_store(store)
    assert not any((tmp_path / "store").rglob("*.json"))


def test_run_store_of_an_earlier_version_gets_its_identity_once(tmp_path):
    for number in range(3):
        commit(DirectoryStore(tmp_path / "store"), f"e{number}")
    (tmp_path / "checkpoints" / "sft" / "update-000000001").mkdir(parents=True)
    store = open_run_store(tmp_path, None)
    assert len(LogReader(store).poll()) == 3  # reading needs none
    given = found_store(store)
    assert found_store(open_run_store(tmp_path, None)) == given


def test_run_store_without_identity_takes_no_episode(tmp_path):
    store = open_run_store(tmp_path, None)
    with pytest.raises(StoreError, match=r"no identity yet.* is the disk mounted"):
        store.create("episodes/r/e.arrow", b"x")
    found_store(store)
    store.create("episodes/r/e.arrow", b"x")


def test_known_log_that_a_power_cut_tore_is_not_believed(tmp_path, caplog):
    begun(tmp_path)
    for torn in (b"", b"\x00" * 160, b'{"version": 3, "sha2'):
        (tmp_path / LOG_NOTE).write_bytes(torn)
        assert len(LogReader(open_run_store(tmp_path, None)).poll()) == 4
    commit(open_run_store(tmp_path, None), "e4")
    assert LogNote(tmp_path / LOG_NOTE).read() is not None
    assert LogNote(tmp_path / LOG_NOTE).read().version == 5


# ---- the log ------------------------------------------------------------------------------------------------


def reader_and_writer(store):
    reader = LogReader(store)
    reader.poll()
    return reader, LogWriter(store, reader)


def test_writer_commits_nothing_behind_an_entry_that_is_gone_or_another(tmp_path):
    for change in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes() + b" ")):
        store = DirectoryStore(tmp_path / str(os.urandom(4).hex()))
        commit(store, "e0")
        commit(store, "e1")
        reader, writer = reader_and_writer(store)
        change(store.root / log_key(2))
        with pytest.raises(OlderLog, match="this process knows"):
            writer.commit(next_entry(reader))
        assert get_or_none(store, log_key(3)) is None


def test_writer_commits_nothing_into_a_hole(tmp_path):
    store = DirectoryStore(tmp_path)
    for number in range(4):
        commit(store, f"e{number}")
    (tmp_path / log_key(3)).unlink()
    for _ in range(4):  # every start
        reader, writer = reader_and_writer(store)
        assert reader.version == 2
        with pytest.raises(StoreError, match=r"lacks version 3, but has .*4"):
            writer.commit(next_entry(reader))
    assert get_or_none(store, log_key(3)) is None


def test_reader_notices_that_its_newest_entry_is_gone(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path)
    commit(store, "e0")
    commit(store, "e1")
    reader, _ = reader_and_writer(store)
    (tmp_path / log_key(2)).unlink()
    monkeypatch.setattr("lwd.data.log._LOOK_EVERY_S", 0.0)
    with pytest.raises(OlderLog, match="ends before version 2"):
        reader.poll()


def test_reader_takes_nothing_from_a_fork(tmp_path):
    """Restored at version 1, and rewritten from there by somebody else."""
    store = DirectoryStore(tmp_path)
    commit(store, "e0")
    commit(store, "e1")
    reader, _ = reader_and_writer(store)
    (tmp_path / log_key(2)).unlink()
    commit(store, "other")
    commit(store, "another")
    with pytest.raises(OlderLog, match=r"version 2 of the log .* is not the one"):
        reader.poll()
    assert reader.version == 2


def next_entry(reader):
    return LogEntry(version=reader.version + 1, epoch=1, batch_id="b", committed_at_s=1.0)


def test_known_entry_refuses_what_is_none(tmp_path):
    with pytest.raises(ValueError, match="sha256"):
        KnownEntry(version=1, sha256="x")
