"""The commit log: one order for all, no episode twice, and an index that says the same as the log."""

import io
import threading

import pyarrow.parquet as pq
import pytest

from lwd.data import log
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter, log_key
from lwd.data.store import DirectoryStore
from lwd.errors import StoreError

from .episodes import episode


def entry(number: int) -> EpisodeEntry:
    info = episode(number).info
    return EpisodeEntry(
        episode_id=info.episode_id,
        key=f"episodes/robot-1/{info.episode_id}.arrow",
        sha256="0" * 64,
        bytes=10,
        robot_id="robot-1",
        embodiment="toy",
        task="reach",
        instruction="go",
        source=info.source,
        outcome=info.outcome,
        world="nominal",
        policy_version=1,
        steps=5 + number,
        human_steps=2,
        interventions=1,
        sub_step_scores=(1.0, 0.5),
        control_hz=10.0,
        started_at_s=1.0,
        uploaded_at_s=2.0,
    )


def version(number: int, *added: int, batch_id: str = "b", revoked: tuple[str, ...] = ()) -> LogEntry:
    return LogEntry(
        version=number,
        epoch=1,
        batch_id=batch_id,
        committed_at_s=3.0,
        added=tuple(entry(item) for item in added),
        revoked=revoked,
    )


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


def writer(store) -> tuple[LogReader, LogWriter]:
    reader = LogReader(store)
    return reader, LogWriter(store, reader)


def test_a_reader_follows_and_can_stop_at_a_version(store):
    reader, commits = writer(store)
    for number in range(1, 6):
        assert commits.commit(version(number, number))
    assert reader.version == 5
    other = LogReader(store)
    assert [item.version for item in other.poll(up_to=3)] == [1, 2, 3]
    assert other.snapshot.version == 3
    assert list(other.snapshot.episodes) == ["robot-1/episode-1", "robot-1/episode-2", "robot-1/episode-3"]
    assert [item.version for item in other.poll()] == [4, 5]
    assert other.poll() == []
    assert other.snapshot == reader.snapshot
    assert other.snapshot.steps == sum(5 + number for number in range(1, 6))


def test_the_loser_of_a_race_does_not_commit(store):
    (reader, commits), (_, late) = writer(store), writer(store)
    assert commits.commit(version(1, 1, batch_id="first"))
    assert not late.commit(version(1, 2, batch_id="second"))
    assert list(LogReaderAt(store).episodes) == ["robot-1/episode-1"]
    assert reader.knows("robot-1/episode-1")
    assert not reader.knows("robot-1/episode-2")


def LogReaderAt(store):
    reader = LogReader(store)
    reader.poll()
    return reader.snapshot


def test_racing_writers_leave_one_order_with_everything_once(store):
    def run(start: int) -> None:
        reader, commits = writer(store)
        for number in range(start, start + 10):
            while True:
                reader.poll()
                if commits.commit(version(reader.version + 1, number, batch_id=f"{start}-{number}")):
                    break

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = LogReaderAt(store)
    assert snapshot.version == 30
    assert len(snapshot.episodes) == 30


def test_revoked_episodes_leave_and_stay_known(store):
    reader, commits = writer(store)
    commits.commit(version(1, 1, 2))
    commits.commit(version(2, revoked=("robot-1/episode-1",)))
    assert list(reader.snapshot.episodes) == ["robot-1/episode-2"]
    assert reader.knows("robot-1/episode-1")
    assert reader.find("robot-1/episode-1") is None


def test_a_stale_writer_is_told_to_read_first(store):
    _, commits = writer(store)
    with pytest.raises(StoreError, match="poll first"):
        commits.commit(version(2, 1))


def test_an_episode_cannot_be_added_twice(store):
    _, commits = writer(store)
    commits.commit(version(1, 1))
    store.create(log_key(2), version(2, 1).model_dump_json().encode())
    with pytest.raises(StoreError, match="adds robot-1/episode-1 again"):
        LogReader(store).poll()


@pytest.mark.parametrize("data", [b"{", b"{}", version(7).model_dump_json().encode(), b'{"version": 1, "unknown": 2}'])
def test_a_damaged_entry_stops_the_reader_loudly(store, data):
    store.create(log_key(1), data)
    with pytest.raises(StoreError, match="restore it"):
        LogReader(store).poll()


def test_the_index_equals_the_log_and_is_plain_parquet(store, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "INDEX_EVERY", 4)
    reader, commits = writer(store)
    for number in range(1, 10):
        commits.commit(version(number, number, revoked=("robot-1/episode-2",) if number == 3 else ()))
        commits.write_index_if_due()
    found = [item.key for item in store.list("index")]
    assert found == ["index/000000000004.parquet", "index/000000000008.parquet"]
    indexed = LogReader(store)
    assert indexed.load_index() == 8
    assert [item.version for item in indexed.poll()] == [9]
    assert indexed.snapshot == reader.snapshot
    assert indexed.knows("robot-1/episode-2")
    table = pq.read_table(io.BytesIO(store.get(found[-1])))
    assert table.column("steps").to_pylist() == [5 + number for number in (1, 3, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize("damage", ["torn", "noise", "row"])
def test_a_damaged_index_is_passed_over(store, tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr(log, "INDEX_EVERY", 4)
    reader, commits = writer(store)
    for number in range(1, 10):
        commits.commit(version(number, number))
        commits.write_index_if_due()
    path = tmp_path / "index" / "000000000008.parquet"
    whole = path.read_bytes()
    if damage == "row":
        table = pq.read_table(io.BytesIO(whole))
        pq.write_table(table.drop_columns(["sha256"]), path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"PAR1 nonsense")
    late = LogReader(store)
    assert late.load_index() == 4
    assert "000000000008.parquet is passed over" in caplog.text
    assert [item.version for item in late.poll()] == [5, 6, 7, 8, 9]
    assert late.snapshot == reader.snapshot


class FailsOnce(DirectoryStore):
    """A store of which one read fails."""

    failing = ""

    def get(self, key, *, max_bytes=None):
        if key == self.failing:
            self.failing = ""
            raise StoreError("connection reset")
        return super().get(key, max_bytes=max_bytes)


def test_entries_that_were_read_before_an_error_come_with_the_next_poll(tmp_path):
    store = FailsOnce(tmp_path)
    _, commits = writer(store)
    for number in range(1, 5):
        commits.commit(version(number, number))
    reader = LogReader(store)
    store.failing = log_key(3)
    with pytest.raises(StoreError, match="reset"):
        reader.poll()
    assert [item.version for item in reader.poll()] == [1, 2, 3, 4]
    assert reader.poll() == []


def test_an_entry_that_does_not_fit_leaves_the_reader_as_it_was(store):
    _, commits = writer(store)
    commits.commit(version(1, 1))
    store.create(log_key(2), version(2, 2, 1).model_dump_json().encode())
    reader = LogReader(store)
    for _ in range(2):
        with pytest.raises(StoreError, match="adds robot-1/episode-1 again"):
            reader.poll()
    assert not reader.knows("robot-1/episode-2")


def test_an_index_costs_what_is_new(store, monkeypatch):
    monkeypatch.setattr(log, "INDEX_EVERY", 4)
    _, commits = writer(store)
    collected = []
    for number in range(1, 13):
        commits.commit(version(number, number, revoked=("robot-1/episode-3",) if number == 6 else ()))
        if (index := commits.due_index()) is not None:
            collected.append((index.version, len(index.added)))
            # Commits go on while it is written; it is still the snapshot of its version.
            assert commits.due_index() is None
            assert index.write()
    assert collected == [(4, 4), (8, 4), (12, 4)]
    late = LogReader(store)
    assert late.load_index() == 12
    assert late.snapshot.episodes.keys() == {f"robot-1/episode-{number}" for number in range(1, 13) if number != 3}


def test_a_failed_index_is_made_up_for_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "INDEX_EVERY", 2)
    store = DirectoryStore(tmp_path)
    reader, commits = writer(store)
    (tmp_path / "index").write_bytes(b"in the way")
    for number in range(1, 3):
        commits.commit(version(number, number))
    assert not commits.write_index_if_due()
    (tmp_path / "index").unlink()
    for number in range(3, 5):
        commits.commit(version(number, number))
    assert commits.write_index_if_due()
    late = LogReader(store)
    assert late.load_index() == 4
    assert late.snapshot == reader.snapshot
