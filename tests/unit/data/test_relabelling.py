"""Another outcome for a committed episode: one version, the old label in the history, no race that counts it twice."""

from dataclasses import replace

import numpy as np
import pytest

from lwd.data.episode_file import read_episode, write_episode
from lwd.data.history import read_history
from lwd.data.log import LogReader
from lwd.data.relabelling import relabel
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
