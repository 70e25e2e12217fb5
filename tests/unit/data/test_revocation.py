"""Revoking: chosen by what an operator knows, one version, contested by coordinators, and for good."""

import threading

import numpy as np
import pytest
import torch

from lwd.data import log as log_module
from lwd.data.arena import ReplayArena
from lwd.data.history import read_history
from lwd.data.log import LogEntry, LogReader, LogWriter, log_key
from lwd.data.reader import ReplayReader
from lwd.data.revocation import newest_log, revoke_selected
from lwd.data.sampling import BatchSampler, Stratum
from lwd.data.selection import Selection, parse_time
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError, StoreError
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.ingest import ingest

from .episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "store")


def live(store) -> list[str]:
    return [item.entry.episode_id for item in newest_log(store).snapshot.episodes.values()]


def three_robots(store) -> None:
    """Episodes 0 to 8 of robots 0, 1 and 2, which began at 100, 200, ... s; the last three have another task."""
    ingest(
        store,
        [
            episode(
                number,
                robot_id=f"robot-{number % 3}",
                started_at_s=100.0 * (number + 1),
                task="reach" if number < 6 else "push",
                policy_version=number // 3,
            )
            for number in range(9)
        ],
        LIMITS,
    )


@pytest.mark.parametrize(
    ("selection", "revoked"),
    [
        (Selection(robot="robot-1"), {1, 4, 7}),
        (Selection(robot="robot-1", since_s=500.0), {4, 7}),
        (Selection(robot="robot-1", since_s=500.0, until_s=800.0), {4}),
        (Selection(task="push"), {6, 7, 8}),
        (Selection(policy_version=1, robot="robot-0"), {3}),
        (Selection(episodes=frozenset({"episode-0", "episode-8"})), {0, 8}),
        (Selection(episodes=frozenset({"episode-0"}), robot="robot-2"), set()),
    ],
)
def test_all_conditions_must_hold_and_one_version_revokes(store, selection, revoked):
    three_robots(store)
    done = revoke_selected(store, selection, reason="camera loose")
    assert set(done.episodes) == {f"robot-{number % 3}/episode-{number}" for number in revoked}
    assert live(store) == [f"episode-{number}" for number in range(9) if number not in revoked]
    history = read_history(store)
    if revoked:
        assert done.version == history.snapshot.version == 2
        assert history.entries[1].reason == "camera loose"
        assert set(history.revoked) == set(done.episodes)
        assert {item.reason for item in history.revoked.values()} == {"camera loose"}
    else:
        assert history.snapshot.version == 1


def test_repeating_makes_no_version(store):
    three_robots(store)
    wanted = Selection(robot="robot-1")
    first = revoke_selected(store, wanted)
    again = revoke_selected(store, wanted)
    assert (again.version, again.episodes) == (first.version, ())


def test_nothing_is_revoked_by_mistake(store):
    three_robots(store)
    with pytest.raises(ConfigError, match="nothing says which episodes"):
        revoke_selected(store, Selection())
    with pytest.raises(ConfigError, match=r"episode episode-77 is not in the log \(version 1\)"):
        revoke_selected(store, Selection(episodes=frozenset({"episode-1", "episode-77"})))
    with pytest.raises(ConfigError, match="is not before until"):
        Selection(since_s=2.0, until_s=2.0)
    assert len(live(store)) == 9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1764043200", 1764043200.0),
        ("1764043200.5", 1764043200.5),
        ("2025-11-25", 1764028800.0),
        ("2025-11-25T04:00", 1764043200.0),
        ("2025-11-25T04:00:00Z", 1764043200.0),
        ("2025-11-25 05:00+01:00", 1764043200.0),
        ("0", 0.0),
    ],
)
def test_times_are_iso_8601_or_unix_seconds(text, seconds):
    assert parse_time("since", text) == seconds


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "nan", "inf", "-1", "", "12:00", "1e300"])
def test_nonsense_is_no_time(text):
    with pytest.raises(ConfigError, match=r"since .* is no "):
        parse_time("since", text)


def test_milliseconds_are_recognised():
    with pytest.raises(ConfigError, match="in milliseconds it would be 2025-11-25T04:00:00Z"):
        parse_time("since", "1764043200000")


class Rival(DirectoryStore):
    """A store where another writer commits just before our first commit."""

    rival = None

    def create(self, key, data):
        if key.startswith("log/") and (rival := self.rival) is not None:
            self.rival = None
            rival()
        return super().create(key, data)


def test_a_lost_race_chooses_again_from_what_the_winner_committed(tmp_path):
    store = Rival(tmp_path / "store")
    ingest(store, [episode(1)], LIMITS)
    store.rival = lambda: ingest(store, [episode(2), episode(3, robot_id="robot-2")], LIMITS)
    done = revoke_selected(store, Selection(robot="robot-1"))
    assert (done.version, done.episodes) == (3, ("robot-1/episode-1", "robot-1/episode-2"))
    assert live(store) == ["episode-3"]


class LosesAnswers(DirectoryStore):
    """A store whose next answers to commits are lost; the commits happen."""

    lost = 0

    def create(self, key, data):
        result = super().create(key, data)
        if key.startswith("log/") and self.lost:
            self.lost -= 1
            raise StoreError("connection reset")
        return result


def test_a_lost_answer_revokes_once(tmp_path):
    store = LosesAnswers(tmp_path / "store")
    ingest(store, [episode(1), episode(2)], LIMITS)
    store.lost = 2
    done = revoke_selected(store, Selection(episodes=frozenset({"episode-1"})))
    assert (done.version, done.episodes) == (2, ("robot-1/episode-1",))
    assert newest_log(store).version == 2


def test_revoking_beside_a_coordinator_loses_nothing_and_nothing_comes_back(store):
    errors: list[Exception] = []

    def fleet() -> None:
        try:
            ingest(store, [episode(number, robot_id=f"robot-{number % 2}") for number in range(40)], LIMITS, batch=2)
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    thread = threading.Thread(target=fleet)
    thread.start()
    revoked: list[str] = []
    while thread.is_alive():
        revoked += revoke_selected(store, Selection(robot="robot-1")).episodes
    thread.join()
    revoked += revoke_selected(store, Selection(robot="robot-1")).episodes
    assert errors == []
    assert sorted(revoked) == sorted(f"robot-1/episode-{number}" for number in range(1, 40, 2))
    assert sorted(live(store)) == sorted(f"episode-{number}" for number in range(0, 40, 2))
    # Every object is still there: neither a running coordinator's listing nor a new one's brings them back.
    coordinator = Coordinator(store, LIMITS)
    assert coordinator.unprocessed() == []
    assert ingest(store, [episode(1, robot_id="robot-1")], LIMITS).known == 1
    assert len(live(store)) == 20


def test_a_log_from_before_reasons_is_read_and_entries_without_one_are_as_before(store):
    old = '{"version":1,"epoch":1,"batch_id":"b","committed_at_s":3.0,"added":[],"revoked":["gone"]}'  # as 0.1 wrote it
    store.create(log_key(1), old.encode())
    reader = LogReader(store)
    assert reader.poll()[0].reason is None
    entry = LogEntry(version=2, epoch=1, batch_id="c", committed_at_s=4.0)
    assert LogWriter(store, reader).commit(entry)
    assert b"reason" not in store.get(log_key(2))


def test_the_index_is_written_where_a_revocation_is_due(store, monkeypatch):
    monkeypatch.setattr(log_module, "INDEX_EVERY", 2)
    three_robots(store)
    assert revoke_selected(store, Selection(robot="robot-0")).version == 2
    indexed = LogReader(store)
    assert indexed.load_index() == 2
    assert indexed.knows("robot-0/episode-0")
    assert indexed.find("robot-0/episode-0") is None


def test_an_id_that_two_robots_have_is_revoked_by_its_robot_alone(store):
    ingest(store, [episode(1, robot_id="robot-1"), episode(1, robot_id="robot-2"), episode(2)], LIMITS)
    with pytest.raises(ConfigError, match="name one of robot-1/episode-1, robot-2/episode-1"):
        revoke_selected(store, Selection(episodes=frozenset({"episode-1"})))
    done = revoke_selected(store, Selection(episodes=frozenset({"robot-2/episode-1"})))
    assert done.episodes == ("robot-2/episode-1",)
    assert list(newest_log(store).snapshot.episodes) == ["robot-1/episode-1", "robot-1/episode-2"]
    done = revoke_selected(store, Selection(episodes=frozenset({"episode-1"}), robot="robot-1"))
    assert done.episodes == ("robot-1/episode-1",)
    assert revoke_selected(store, Selection(episodes=frozenset({"episode-2"}))).episodes == ("robot-1/episode-2",)


@pytest.mark.parametrize("indexed", [False, True])
def test_an_id_alone_in_a_log_of_before_is_revoked_as_it_was(store, monkeypatch, indexed):
    monkeypatch.setattr(log_module, "INDEX_EVERY", 2)
    three_robots(store)
    reader = LogReader(store)
    reader.poll()
    writer = LogWriter(store, reader)
    assert writer.commit(LogEntry(version=2, epoch=1, batch_id="c", committed_at_s=4.0, revoked=("episode-4",)))
    assert writer.write_index_if_due()
    replay = ReplayReader(store, arena())
    if not indexed:
        replay.advance(1)
    replay.advance()
    assert (replay.arena.num_episodes, replay.env_steps) == (8, 160)
    assert not any(info.episode_id == "episode-4" for info in live_infos(replay))
    assert "robot-1/episode-4" in read_history(store).revoked
    later = newest_log(store) if indexed else reader
    assert later.knows("robot-1/episode-4")
    assert later.find("robot-1/episode-4") is None
    assert Coordinator(store, LIMITS).unprocessed() == []
    replay.close()


def live_infos(replay: ReplayReader):
    view = replay.arena.view
    return [info for info, revoked in zip(view.infos, view.revoked_E, strict=False) if not revoked]


def arena() -> ReplayArena:
    return ReplayArena(EMBODIMENT, horizon=5, gamma=0.99, embed=lambda text: np.ones(4), tasks=("push", "reach"))


def test_a_learner_drops_them_at_the_next_snapshot_and_draws_as_one_that_began_later(store):
    three_robots(store)
    there = ReplayReader(store, arena())
    there.advance()
    before = BatchSampler(there.arena, [Stratum()], batch_size=64, seed=3)
    old = before.batch(0)
    version = revoke_selected(store, Selection(robot="robot-1")).version
    assert torch.equal(before.batch(0).observation.state_BS, old.observation.state_BS)  # not before it looks
    there.advance()
    late = ReplayReader(store, arena())
    late.advance()
    assert there.version == late.version == version
    assert there.arena.num_episodes == late.arena.num_episodes == 6
    assert (there.env_steps, there.fleet_episodes) == (late.env_steps, late.fleet_episodes) == (120, 6)
    gone = {tuple(row) for number in (1, 4, 7) for row in episode(number).states_TS}
    after = BatchSampler(late.arena, [Stratum()], batch_size=64, seed=3)
    for update in range(5):
        one, other = before.batch(update), after.batch(update)
        assert torch.equal(one.observation.state_BS, other.observation.state_BS)
        assert torch.equal(one.action_chunk_BHA, other.action_chunk_BHA)
        assert torch.equal(one.task_B, other.task_B)
        assert not gone & {tuple(row) for row in one.observation.state_BS.numpy()}
    # A reader that goes to the version before sees the same as ever.
    past = ReplayReader(store, arena())
    past.advance(version - 1)
    again = BatchSampler(past.arena, [Stratum()], batch_size=64, seed=3).batch(0)
    assert torch.equal(again.observation.state_BS, old.observation.state_BS)
    for reader in (there, late, past):
        reader.close()
