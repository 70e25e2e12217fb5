"""Another outcome for a committed episode: one version, the old label in the history, no race that counts it twice."""

import os
from dataclasses import replace

import numpy as np
import pytest

from lwd.data.copying import copy_store
from lwd.data.episode_file import read_episode, write_episode
from lwd.data.history import read_history
from lwd.data.log import LogReader
from lwd.data.relabelling import relabel
from lwd.data.retention import RetentionRules, apply_retention
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import ConfigError, EpisodeRejected
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.ingest import ingest
from lwd.types import Outcome, Source

from .episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)


@pytest.fixture
def store(tmp_path) -> DirectoryStore:
    store = DirectoryStore(tmp_path)
    made = [episode(number) for number in range(3)]
    made.append(episode(3, source=Source.DEMONSTRATION, policy_version=-1))
    assert not ingest(store, iter(made), LIMITS).quarantined
    return store


def outcomes(store: DirectoryStore) -> dict[str, Outcome]:
    reader = LogReader(store)
    reader.poll()
    return {item.entry.episode_id: item.entry.outcome for item in reader.snapshot.episodes.values()}


def test_one_version_brings_the_new_label_and_keeps_the_old_one_in_history(store):
    before = read_history(store).snapshot.version
    change = relabel(store, "robot-1/episode-1", Outcome.FAILURE, who="ada")
    assert (change.version, change.episode_id) == (before + 1, "episode-1-label1")
    assert "episode-1" not in outcomes(store)
    assert outcomes(store)["episode-1-label1"] is Outcome.FAILURE
    history = read_history(store)
    assert history.revoked["robot-1/episode-1"].episode.entry.outcome is Outcome.SUCCESS
    assert history.revoked["robot-1/episode-1"].reason == "ada changed success to failure: now episode-1-label1"
    reader = LogReader(store)
    reader.poll()
    entry = reader.find("robot-1/episode-1-label1").entry
    copy, original = read_episode(store.get(entry.key)), episode(1)
    np.testing.assert_array_equal(copy.actions_TA, original.actions_TA)
    assert copy.info == replace(original.info, episode_id="episode-1-label1", outcome=Outcome.FAILURE)
    again = relabel(store, "robot-1/episode-1-label1", Outcome.SUCCESS, who="bob")
    assert again.episode_id == "episode-1-label2"
    assert len(outcomes(store)) == 4


class Killed(BaseException):
    """As SIGKILL: nothing of ours catches it."""


class KilledAt(DirectoryStore):
    """A store whose user is killed just before or just after its operation number `at`."""

    at, after, count = 0, False, 0

    def _around(self, operation):
        self.count += 1
        if self.count == self.at and not self.after:
            raise Killed
        now = self.count == self.at
        try:
            return operation()
        finally:
            if now:
                raise Killed

    def create(self, key, data):
        return self._around(lambda: super(KilledAt, self).create(key, data))

    def get(self, key, **limits):
        return self._around(lambda: super(KilledAt, self).get(key, **limits))


@pytest.mark.parametrize("after", [False, True])
def test_console_killed_at_any_step_leaves_the_episode_once(tmp_path, after):
    """Whatever became visible, a coordinator's listing included: one label or the other, never both or none."""
    at, labels = 0, set()
    while True:
        at += 1
        root = tmp_path / f"{at}"
        store = DirectoryStore(root)
        ingest(store, [episode(1), episode(2)], LIMITS)
        dying = KilledAt(root)
        dying.at, dying.after = at, after
        killed = False
        try:
            relabel(dying, "robot-1/episode-1", Outcome.FAILURE, who="ada")
        except Killed:
            killed = True
        replay = LogReader(store)
        for _ in range(2):
            coordinator = Coordinator(store, LIMITS)
            assert coordinator.process(coordinator.unprocessed()).committed == []
            replay.poll()
        found = [item.entry for item in replay.snapshot.episodes.values() if item.entry.episode_id != "episode-2"]
        assert len(found) == 1, f"killed {'after' if after else 'before'} operation {at}: {found}"
        labels.add((found[0].episode_id, found[0].outcome.value))
        assert read_episode(store.get(found[0].key)).info.outcome is found[0].outcome
        # Done again, it ends as if nothing had happened.
        if found[0].outcome is Outcome.SUCCESS:
            relabel(store, "robot-1/episode-1", Outcome.FAILURE, who="ada")
        assert outcomes(store) == {"episode-1-label1": Outcome.FAILURE, "episode-2": Outcome.SUCCESS}
        if not killed:
            break
    assert at > 5
    assert labels == {("episode-1", "success"), ("episode-1-label1", "failure")}


def test_copy_of_a_killed_relabelling_is_removed_by_retention_when_it_is_old(tmp_path):
    store = DirectoryStore(tmp_path)
    ingest(store, [episode(1)], LIMITS)
    done = relabel(store, "robot-1/episode-1", Outcome.FAILURE, who="ada")
    committed = [item.key for item in store.list("relabelled")]
    unfinished = "relabelled/robot-1/episode-9-label1-0.arrow"
    store.create(unfinished, b"never committed")
    rules = RetentionRules(revoked_days=0)
    apply_retention(store, rules, watch_s=0)
    assert unfinished in {item.key for item in store.list("relabelled")}  # somebody may be at it
    os.utime(tmp_path / unfinished, (1.0, 1.0))
    os.utime(tmp_path / committed[0], (1.0, 1.0))
    apply_retention(store, rules, watch_s=0)
    assert [item.key for item in store.list("relabelled")] == committed
    assert list(store.list("episodes")) == []  # the original, which the copy replaced
    target = DirectoryStore(tmp_path / "copy")
    copy_store(store, target)
    reader = LogReader(target)
    reader.poll()
    entry = reader.find(f"robot-1/{done.episode_id}").entry
    assert target.get(entry.key) == store.get(entry.key)


def test_an_id_that_the_robot_used_itself_is_passed_over(store):
    ingest(store, [episode(9, episode_id="episode-1-label1")], LIMITS)
    change = relabel(store, "robot-1/episode-1", Outcome.FAILURE, who="ada")
    assert change.episode_id == "episode-1-label2"
    assert outcomes(store)["episode-1-label1"] is Outcome.SUCCESS


def test_a_coordinator_that_finds_the_copy_first_makes_no_second_episode(store, monkeypatch):
    create = store.create

    def found_at_once(key, data):
        done = create(key, data)
        if "-label" in key:
            coordinator = Coordinator(store, LIMITS)
            coordinator.process(coordinator.unprocessed())
        return done

    monkeypatch.setattr(store, "create", found_at_once)
    relabel(store, "robot-1/episode-0", Outcome.FAILURE, who="ada")
    assert sorted(outcomes(store)) == ["episode-0-label1", "episode-1", "episode-2", "episode-3"]


@pytest.mark.parametrize(
    ("name", "outcome", "message"),
    [
        ("episode-9", Outcome.FAILURE, "is not in the newest snapshot"),
        ("episode-0", Outcome.SUCCESS, "has the outcome success already"),
        ("episode-3", Outcome.FAILURE, "only what a policy did"),
    ],
)
def test_what_cannot_be_relabelled_is_named(store, name, outcome, message):
    with pytest.raises(ConfigError, match=message):
        relabel(store, f"robot-1/{name}", outcome, who="ada")
    assert len(outcomes(store)) == 4


def helped(ids: tuple[str, ...], steps: tuple[int, ...]):
    made = episode(5, operator_ids=ids, operator_steps=steps)
    return replace(made, controllers_T=np.array([0, 0, 1, 1, 1, 0, 1, *[0] * 13], np.uint8))


def test_the_operators_names_survive_the_file():
    made = helped(("ada", "scripted", "ada"), (2, 4, 6))
    read = validate_episode(write_episode(made), LIMITS)
    assert read.info == made.info
    assert b"operator_ids" not in write_episode(episode(5))  # older versions read it


@pytest.mark.parametrize(
    ("ids", "steps", "message"),
    [
        (("ada",), (), "names 1 operators, operator_steps 0 steps"),
        (("ada",), (1,), "operator_steps holds 1"),
        (("ada", "bob"), (4, 2), "operator_steps holds 2"),
        (("ada",), (20,), "operator_steps holds 20"),
        (("../ada",), (2,), "operator_ids.0"),
    ],
)
def test_operators_that_cannot_have_acted_are_refused(ids, steps, message):
    with pytest.raises(EpisodeRejected, match=message):
        validate_episode(write_episode(helped(ids, steps)), LIMITS)
