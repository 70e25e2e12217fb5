"""The replay reader against a real store and log."""

import hashlib
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lwd.data import reader as reader_module
from lwd.data.arena import ReplayArena
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.log_index import IndexTable, IndexUpdate, index_key
from lwd.data.reader import ReplayReader
from lwd.data.sampling import BatchSampler, Stratum
from lwd.data.store import DirectoryStore, open_store
from lwd.errors import StoreError
from lwd.types import Episode, EpisodeInfo, Outcome, Source


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(reader_module, "_FIRST_WAIT_S", 0.001)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def arena(embodiment):
    return ReplayArena(embodiment, horizon=3, gamma=0.99, embed=lambda text: np.ones(4))


def upload(store, embodiment, name: str, source: Source = Source.FLEET, steps: int = 6) -> EpisodeEntry:
    info = EpisodeInfo(
        episode_id=name, robot_id="r1", embodiment=embodiment.name, task="go", instruction="go", source=source,
        outcome=Outcome.SUCCESS, policy_version=2, sub_step_scores=(1.0,), control_hz=10.0, seed=1, world="nominal",
        started_at_s=1.0, software_version="0",
    )  # fmt: skip
    rng = np.random.default_rng(len(name))
    episode = Episode(
        info=info, states_TS=rng.normal(size=(steps + 1, embodiment.state_size)).astype(np.float32),
        actions_TA=rng.uniform(-1, 1, (steps, 2)).astype(np.float32), controllers_T=np.zeros(steps, np.uint8),
    )  # fmt: skip
    data, key = write_episode(episode), episode_key("r1", name)
    store.create(key, data)
    return EpisodeEntry(
        episode_id=name, key=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), robot_id="r1",
        embodiment=embodiment.name, task="go", instruction="go", source=source, outcome=Outcome.SUCCESS,
        world="nominal", policy_version=2, steps=steps, human_steps=0, interventions=0, sub_step_scores=(1.0,),
        control_hz=10.0, started_at_s=1.0, uploaded_at_s=2.0,
    )  # fmt: skip


def commit(store, *, added=(), revoked=()) -> None:
    reader = LogReader(store)
    reader.poll()
    entry = LogEntry(
        version=reader.version + 1, epoch=1, batch_id=f"b{reader.version}", committed_at_s=3.0, added=tuple(added),
        revoked=tuple(revoked),
    )  # fmt: skip
    assert LogWriter(store, reader).commit(entry)


def test_the_arena_follows_the_log_version_by_version(store, arena, embodiment):
    commit(store, added=[upload(store, embodiment, "a", Source.DEMONSTRATION), upload(store, embodiment, "b")])
    commit(store, added=[upload(store, embodiment, "c")])
    reader = ReplayReader(store, arena)
    assert [entry.episode_id for entry in reader.advance(up_to=1)] == ["a", "b"]
    assert (reader.version, arena.num_episodes, reader.env_steps) == (1, 2, 6)
    assert [entry.episode_id for entry in reader.advance()] == ["c"]
    assert (reader.version, arena.num_episodes, reader.env_steps) == (2, 3, 12)
    assert reader.advance() == ()
    reader.close()


def test_revoked_episodes_leave_the_replay(store, arena, embodiment):
    commit(store, added=[upload(store, embodiment, "a"), upload(store, embodiment, "b")])
    reader = ReplayReader(store, arena)
    reader.advance()
    commit(store, revoked=["a"])
    reader.advance()
    assert arena.num_episodes == 1
    late = ReplayArena(embodiment, horizon=3, gamma=0.99, embed=lambda text: np.ones(4))
    late_reader = ReplayReader(store, late)
    assert [entry.episode_id for entry in late_reader.advance()] == ["b"]
    reader.close()
    late_reader.close()


class Counting(DirectoryStore):
    """Counts the objects that are read; its gate holds episodes back."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.read: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key: str) -> bytes:
        self.read[key.partition("/")[0]] += 1
        if key.startswith("episodes/"):
            assert self.gate.wait(30)
        return super().get(key)


def index_at(store, version: int) -> None:
    """What the coordinator writes every few hundred versions."""
    reader = LogReader(store)
    reader.poll(up_to=version)
    assert reader.version == version
    added = [(item.entry, item.version, item.committed_at_s) for item in reader.newer_than(0)]
    revoked = sorted(reader.revoked)
    update = IndexUpdate(
        store=store,
        table=IndexTable(),
        version=version,
        epoch=reader.epoch,
        sha256=reader.sha256,
        added=added,
        revoked=revoked,
    )
    assert update.write()


@pytest.fixture
def long_log(store, embodiment) -> None:
    """40 versions, some of them revocations; indexes at 16 and 32."""
    for number in range(40):
        if number % 10 == 7:
            commit(store, revoked=[f"e{number - 3:03d}"])
        else:
            source = Source.FLEET if number % 2 else Source.DEMONSTRATION
            commit(store, added=[upload(store, embodiment, f"e{number:03d}", source, steps=3 + number % 5)])
    index_at(store, 16)
    index_at(store, 32)


def content(reader: ReplayReader) -> tuple:
    batches = [BatchSampler(reader.arena, [Stratum()], batch_size=64, seed=1).batch(update) for update in range(3)]
    numbers = [(batch.observation.state_BS.tolist(), batch.return_B.tolist()) for batch in batches]
    return reader.version, reader.env_steps, reader.fleet_episodes, reader.arena.num_episodes, numbers


@pytest.mark.parametrize(("target", "log_reads"), [(40, 10), (33, 3), (32, 1), (20, 6), (9, 9), (None, 11)])
def test_a_late_reader_reads_the_index_and_not_every_version(long_log, store, embodiment, tmp_path, target, log_reads):
    """What it then has depends on the version alone."""

    def make_arena() -> ReplayArena:
        return ReplayArena(embodiment, horizon=3, gamma=0.99, embed=lambda text: np.ones(4))

    step_by_step = ReplayReader(store, make_arena())
    for version in range(1, (target or 40) + 1):
        step_by_step.advance(version)
    counting = Counting(tmp_path / "store")
    late = ReplayReader(counting, make_arena())
    late.advance(target)
    assert content(late) == content(step_by_step)
    # The entry that the index was made from, again before the first new one, and one where it runs into the log's end.
    assert counting.read["log"] == log_reads
    assert counting.read["index"] == (0 if target == 9 else 1)
    late.close()
    step_by_step.close()


def test_a_damaged_index_only_costs_time(long_log, store, arena, tmp_path):
    (tmp_path / "store" / index_key(32)).write_bytes(b"no parquet")
    reader = ReplayReader(store, arena)
    reader.advance()
    assert (reader.version, arena.num_episodes) == (40, 32)
    reader.close()


def test_what_is_prepared_shows_only_when_it_is_adopted(store, arena, embodiment, tmp_path):
    commit(store, added=[upload(store, embodiment, "a"), upload(store, embodiment, "b")])
    counting = Counting(tmp_path / "store")
    reader = ReplayReader(counting, arena)
    reader.advance()
    commit(store, added=[upload(store, embodiment, "c")], revoked=["a"])
    commit(store, added=[upload(store, embodiment, "d")])
    assert reader.newest() == 3
    counting.gate.clear()
    reader.prepare(3)
    reader.prepare(3)
    commit(store, added=[upload(store, embodiment, "e")])
    assert reader.newest() == 3  # one thing at a time
    assert not reader.prepared
    assert (reader.version, arena.num_episodes, reader.env_steps) == (1, 2, 12)
    counting.gate.set()
    assert [entry.episode_id for entry in reader.adopt()] == ["c", "d"]
    assert (reader.version, arena.num_episodes, reader.env_steps) == (3, 3, 18)
    assert not reader.prepared
    assert reader.adopt() == ()
    reader.prepare(reader.newest())
    reader.advance()  # also while something is prepared
    assert (reader.version, arena.num_episodes, reader.env_steps) == (4, 4, 24)
    reader.close()


def test_a_version_that_never_comes_and_a_broken_download_are_errors_of_adopt(store, arena, embodiment, tmp_path):
    reader = ReplayReader(store, arena)
    reader.prepare(1)
    with pytest.raises(StoreError, match="another learner process sees version 1: give all of them the same store"):
        reader.adopt()
    entry = upload(store, embodiment, "a")
    commit(store, added=[entry])
    path = tmp_path / "store" / entry.key
    data = path.read_bytes()
    path.write_bytes(b"cut")
    reader.prepare(1)
    with pytest.raises(StoreError, match="the log says"):
        reader.adopt()
    assert (reader.version, arena.num_episodes) == (0, 0)
    path.write_bytes(data)
    reader.prepare(1)
    assert [item.episode_id for item in reader.adopt()] == ["a"]
    reader.close()


def test_downloads_do_not_run_far_ahead_of_decoding(store, embodiment, tmp_path):
    """A late reader's memory holds a few episodes, not the whole log's."""
    commit(store, added=[upload(store, embodiment, f"e{number:03d}") for number in range(60)])
    counting = Counting(tmp_path / "store")
    ahead: list[int] = []

    class SlowArena(ReplayArena):
        def stage(self, episodes):
            def slowly():
                for number, episode in enumerate(episodes):
                    time.sleep(0.003)
                    ahead.append(counting.read["episodes"] - number)
                    yield episode

            return super().stage(slowly())

    reader = ReplayReader(
        counting, SlowArena(embodiment, horizon=3, gamma=0.99, embed=lambda text: np.ones(4)), downloads=2
    )
    reader.advance()
    assert reader.arena.num_episodes == 60
    assert 2 <= max(ahead) <= 2 * 4 + 1
    reader.close()


def test_an_episode_that_is_not_what_was_committed_is_refused(store, arena, embodiment):
    entry = upload(store, embodiment, "a")
    commit(store, added=[entry.model_copy(update={"sha256": "0" * 64})])
    reader = ReplayReader(store, arena)
    with pytest.raises(StoreError, match="the log says 000000000000"):
        reader.advance()
    assert arena.num_episodes == 0
    reader.close()


def test_after_a_failed_download_the_same_episodes_are_tried_again(store, arena, embodiment, tmp_path):
    entry = upload(store, embodiment, "a")
    commit(store, added=[entry])
    path = tmp_path / "store" / entry.key
    data = path.read_bytes()
    path.unlink()
    reader = ReplayReader(store, arena)
    with pytest.raises(StoreError):
        reader.advance()
    path.write_bytes(data)
    assert [item.episode_id for item in reader.advance()] == ["a"]
    assert arena.num_episodes == 1
    reader.close()


def test_an_episode_that_cannot_be_used_names_itself_and_stops_nothing_once_it_is_revoked(store, arena, embodiment):
    good = upload(store, embodiment, "good")
    bad = upload(store, embodiment, "bad")
    data = b"no arrow file"
    store.create("episodes/r1/poison.arrow", data)
    changes = {"key": "episodes/r1/poison.arrow", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    commit(store, added=[good, bad.model_copy(update=changes)])
    reader = ReplayReader(store, arena)
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"episode r1/bad: file is no whole Arrow IPC file.*`lwd data revoke --episode ROBOT/ID`"
        ):
            reader.advance()
        assert arena.num_episodes == 0
    commit(store, revoked=["bad"])
    assert [entry.episode_id for entry in reader.advance()] == ["good"]
    assert (reader.version, arena.num_episodes) == (2, 1)
    reader.close()


def test_frames_that_cannot_be_decoded_are_such_an_episode(store, embodiment):
    with_camera = replace(embodiment, cameras={"wrist": (6, 8)})
    arena = ReplayArena(with_camera, horizon=3, gamma=0.99, embed=lambda text: np.ones(4))
    commit(store, added=[upload(store, embodiment, "blind")])
    reader = ReplayReader(store, arena)
    with pytest.raises(StoreError, match=r"episode r1/blind: camera 'wrist' has 0 frames.*revoke --episode ROBOT/ID`"):
        reader.advance()
    commit(store, revoked=["blind"])
    assert reader.advance() == ()
    assert reader.version == 2
    reader.close()
