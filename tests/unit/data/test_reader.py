"""The replay reader against a real store and log."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from lwd.data import reader as reader_module
from lwd.data.arena import ReplayArena
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.reader import ReplayReader
from lwd.data.store import open_store
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
        with pytest.raises(StoreError, match=r"episode bad: file is no whole Arrow IPC file.*`lwd data revoke`"):
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
    with pytest.raises(StoreError, match=r"episode blind: camera 'wrist' has 0 frames.*`lwd data revoke`"):
        reader.advance()
    commit(store, revoked=["blind"])
    assert reader.advance() == ()
    assert reader.version == 2
    reader.close()
