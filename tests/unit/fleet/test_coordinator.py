"""The coordinator: exactly once, whatever is repeated, lost, forged or contested."""

import dataclasses
import hashlib
import threading

import numpy as np
import pytest

from lwd.data import validation
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import LogReader
from lwd.data.quarantine import find_quarantined, quarantine
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import ObjectExists, StoreError
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.describing import describe
from lwd.fleet.ingest import ingest
from lwd.fleet.judging import Candidate

from ..data.episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


def upload(store, number: int, **info) -> Candidate:
    made = episode(number, **info)
    data = write_episode(made)
    key = episode_key(made.info.robot_id, made.info.episode_id)
    store.create(key, data)
    return Candidate(key=key, uploaded_at_s=1.0, sha256=hashlib.sha256(data).hexdigest())


def committed(store) -> list[str]:
    reader = LogReader(store)
    reader.poll()
    return [item.entry.episode_id for item in reader.snapshot.episodes.values()]


def test_a_batch_becomes_one_version(store):
    candidates = [upload(store, number) for number in range(5)]
    result = Coordinator(store, LIMITS).process(candidates)
    assert len(result.committed) == 5
    reader = LogReader(store)
    (entry,) = reader.poll()
    assert [item.episode_id for item in entry.added] == [f"episode-{number}" for number in range(5)]
    assert entry.added[0].sha256 == candidates[0].sha256


def test_repeats_are_known_within_a_batch_between_batches_and_after_a_restart(store):
    candidate = upload(store, 1)
    coordinator = Coordinator(store, LIMITS)
    assert coordinator.process([candidate, candidate]).known == 1
    assert coordinator.process([candidate]).known == 1
    successor = Coordinator(store, LIMITS)
    assert successor.process([candidate]).known == 1
    assert successor.epoch == coordinator.epoch + 1
    assert committed(store) == ["episode-1"]


def test_what_was_never_announced_is_found_in_the_store(store):
    coordinator = Coordinator(store, LIMITS)
    upload(store, 1)
    upload(store, 2)
    found = coordinator.unprocessed()
    assert [item.key for item in found] == [
        "episodes/robot-1/episode-1.arrow",
        "episodes/robot-1/episode-2.arrow",
    ]
    coordinator.process(found)
    assert coordinator.unprocessed() == []
    assert sorted(committed(store)) == ["episode-1", "episode-2"]


def test_bad_episodes_are_quarantined_once_and_do_not_block_good_ones(store):
    bad = dataclasses.replace(episode(1), states_TS=np.full((21, 4), np.nan, np.float32))
    key = "episodes/robot-1/episode-1.arrow"
    store.create(key, write_episode(bad))
    store.create("episodes/robot-1/noise.arrow", b"no arrow file")
    store.create("episodes/robot-1/deep/er.arrow", b"x")
    upload(store, 2)
    coordinator = Coordinator(store, LIMITS)
    result = coordinator.process(coordinator.unprocessed())
    assert committed(store) == ["episode-2"]
    assert len(result.quarantined) == 3
    assert "states is not finite at step 0" in find_quarantined(store, key).reason
    assert store.get(key) == write_episode(bad)
    assert coordinator.unprocessed() == []
    assert Coordinator(store, LIMITS).unprocessed() == []


def test_an_episode_under_a_foreign_key_is_refused(store):
    store.create("episodes/robot-9/stolen.arrow", write_episode(episode(1)))
    result = Coordinator(store, LIMITS).process([Candidate(key="episodes/robot-9/stolen.arrow", uploaded_at_s=1.0)])
    assert "its key is 'episodes/robot-9/stolen.arrow'" in result.quarantined[0][1]


def test_two_robots_may_choose_the_same_episode_id(store):
    candidates = [upload(store, 1, robot_id="robot-1"), upload(store, 1, robot_id="robot-2")]
    coordinator = Coordinator(store, LIMITS)
    result = coordinator.process([*candidates, candidates[0]])
    assert [entry.identity for entry in result.committed] == ["robot-1/episode-1", "robot-2/episode-1"]
    assert (result.quarantined, result.known) == ([], 1)
    assert coordinator.unprocessed() == Coordinator(store, LIMITS).unprocessed() == []
    coordinator.revoke(["robot-2/episode-1"])
    assert list(coordinator.reader.snapshot.episodes) == ["robot-1/episode-1"]
    assert coordinator.unprocessed() == []


def test_an_altered_object_is_refused(store):
    candidate = dataclasses.replace(upload(store, 1), sha256="0" * 64)
    result = Coordinator(store, LIMITS).process([candidate])
    assert "the robot announced 000" in result.quarantined[0][1]


def test_an_announcement_without_an_object_is_reported_and_may_come_true(store):
    coordinator = Coordinator(store, LIMITS)
    candidate = Candidate(key="episodes/robot-1/episode-1.arrow", uploaded_at_s=1.0)
    assert coordinator.process([candidate]).missing == [candidate.key]
    upload(store, 1)
    assert len(coordinator.process(coordinator.unprocessed()).committed) == 1


def test_contending_coordinators_commit_everything_once(store):
    candidates = [upload(store, number) for number in range(24)]
    coordinators = [Coordinator(store, LIMITS) for _ in range(3)]
    errors: list[Exception] = []

    def work(coordinator: Coordinator, order: list[Candidate]) -> None:
        try:
            for start in range(0, len(order), 2):
                coordinator.process(order[start : start + 2])
        except StoreError as error:
            errors.append(error)

    orders = [candidates, candidates[::-1], candidates[12:] + candidates[:12]]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(coordinators, orders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    names = committed(store)
    assert sorted(names) == sorted(f"episode-{number}" for number in range(24))


class LosesAnswers(DirectoryStore):
    """A store whose every second answer to a commit is lost after the commit happened."""

    commits = 0

    def create(self, key, data):
        result = super().create(key, data)
        if key.startswith("log/"):
            self.commits += 1
            if self.commits % 2:
                raise StoreError("connection reset")
        return result


def test_a_lost_answer_to_a_commit_does_not_commit_twice(tmp_path):
    store = LosesAnswers(tmp_path)
    candidates = [upload(store, number) for number in range(4)]
    coordinator = Coordinator(store, LIMITS)
    for candidate in candidates:
        try:
            coordinator.process([candidate])
        except StoreError:
            assert coordinator.process([candidate]).known == 1
    assert committed(store) == [f"episode-{number}" for number in range(4)]


class Unreadable(DirectoryStore):
    """A store with objects that cannot be read: a bad sector, a right that is missing; or all of it, when down."""

    unreadable: tuple[str, ...] = ()
    down = False

    def get(self, key, *, max_bytes=None):
        if self.down or key in self.unreadable:
            raise StoreError(f"cannot read {key}")
        return super().get(key, max_bytes=max_bytes)


def test_an_object_that_cannot_be_read_does_not_hold_up_the_others(tmp_path):
    store = Unreadable(tmp_path)
    candidates = [upload(store, number) for number in range(3)]
    coordinator = Coordinator(store, LIMITS)
    store.unreadable = (candidates[0].key,)
    assert coordinator.process(candidates).missing == [candidates[0].key]
    assert committed(store) == ["episode-1", "episode-2"]
    assert coordinator.process(coordinator.unprocessed()).missing == [candidates[0].key]
    store.unreadable = ()
    coordinator.process(coordinator.unprocessed())
    assert committed(store) == ["episode-1", "episode-2", "episode-0"]


def test_a_store_that_is_down_is_no_missing_object(tmp_path):
    store = Unreadable(tmp_path)
    candidates = [upload(store, number) for number in range(3)]
    coordinator = Coordinator(store, LIMITS)
    store.down = True
    with pytest.raises(StoreError, match="cannot read"):
        coordinator.process(candidates)
    store.down = False
    assert len(coordinator.process(candidates).committed) == 3


@pytest.mark.parametrize(
    "error", [MemoryError, RecursionError, OverflowError, ZeroDivisionError, KeyError, SystemError]
)
def test_whatever_a_file_makes_us_raise_quarantines_that_file_only(store, monkeypatch, error):
    checked = validation.read_episode

    def read(data, **limits):
        made = checked(data, **limits)
        if made.info.episode_id == "episode-1":
            raise error("as a bug would")
        return made

    monkeypatch.setattr(validation, "read_episode", read)
    candidates = [upload(store, number) for number in range(3)]
    result = Coordinator(store, LIMITS).process(candidates)
    assert committed(store) == ["episode-0", "episode-2"]
    assert error.__name__ in result.quarantined[0][1]


def test_a_reason_is_one_bounded_readable_line(store):
    key = "episodes/robot-1/\x1b[2J\n.arrow"
    quarantine(store, key, "line\nfeed \udcff " + "x" * 5000)
    record = find_quarantined(store, key)
    assert record.reason.startswith("line\\nfeed \\udcff xxx")
    assert record.reason.endswith("... (5012 characters)")
    assert record.key == "episodes/robot-1/\\x1b[2J\\n.arrow"


def test_revoked_episodes_do_not_come_back(store):
    upload(store, 1)
    upload(store, 2)
    coordinator = Coordinator(store, LIMITS)
    coordinator.process(coordinator.unprocessed())
    assert coordinator.revoke(["robot-1/episode-1", "unknown"]) == 2
    assert coordinator.revoke(["robot-1/episode-1"]) == 2
    assert committed(store) == ["episode-2"]
    assert coordinator.unprocessed() == []
    assert Coordinator(store, LIMITS).unprocessed() == []


def test_take_overs_and_human_steps_are_counted():
    made = episode(steps=8)
    human = np.array([1, 1, 0, 0, 1, 0, 1, 1], np.uint8)
    entry = describe(dataclasses.replace(made, controllers_T=human), data_bytes=9, sha256="0" * 64, uploaded_at_s=1.0)
    assert (entry.steps, entry.human_steps, entry.interventions) == (8, 5, 3)


def test_ingesting_offline_data_is_repeatable_and_refuses_changed_content(store):
    episodes = [episode(number) for number in range(7)]
    result = ingest(store, episodes, LIMITS, batch=3)
    assert len(result.committed) == 7
    assert len(committed(store)) == 7
    assert ingest(store, episodes, LIMITS).known == 7
    with pytest.raises(ObjectExists):
        ingest(store, [episode(3, instruction="something else")], LIMITS)


class RivalCommitsFirst(DirectoryStore):
    """A store in which another coordinator is faster, once."""

    rival = None

    def create(self, key, data):
        if key.startswith("log/") and self.rival is not None:
            rival, self.rival = self.rival, None
            rival()
        return super().create(key, data)


def test_of_a_lost_race_only_what_the_winner_committed_is_known(tmp_path):
    store = RivalCommitsFirst(tmp_path)
    first, second = (upload(store, 1, robot_id=name) for name in ("robot-1", "robot-2"))
    coordinator, other = Coordinator(store, LIMITS), Coordinator(store, LIMITS)
    store.rival = lambda: other.process([second])
    result = coordinator.process([first, second])
    assert ([entry.key for entry in result.committed], result.known) == ([first.key], 1)
    assert result.quarantined == []
    assert len(committed(store)) == 2
    assert coordinator.unprocessed() == []
