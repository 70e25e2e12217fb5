"""A store that fails while the stage trains: what goes on, what is tried again, and what ends it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lwd.data import outage
from lwd.data.learner_lease import LearnerLease
from lwd.data.policies import fetch_policy, newest_policy, read_manifest
from lwd.data.store import Created, DirectoryStore
from lwd.errors import LeaseTaken, StoreError
from lwd.learner.online import OnlineLimits, OnlineStage
from lwd.recipes.fleet_publisher import FleetPublisher
from lwd.types import Source

from ...toy_learner import Fleet, Site


class Failing(DirectoryStore):
    """Answers 503 while it is down; may lose the answer to creates of keys that hold a word."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.down = False
        self.loses_answer_to = ""
        self.failures = 0

    def create(self, key: str, data: bytes) -> Created:
        self._answer()
        created = super().create(key, data)
        if self.loses_answer_to and key.endswith(self.loses_answer_to):
            self.loses_answer_to = ""
            raise StoreError(f"cannot store {key} (timeout)")
        return created

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self._answer()
        return super().get(key, max_bytes=max_bytes)

    def list(self, prefix: str, start_after: str = "") -> Iterator:
        self._answer()
        return super().list(prefix, start_after)

    def _answer(self) -> None:
        if self.down:
            self.failures += 1
            raise StoreError("503 Service Unavailable")


@pytest.fixture(autouse=True)
def short_rests(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_REST_S", 0.01)
    monkeypatch.setattr(outage, "MOST_REST_S", 0.05)


@pytest.fixture
def site(tmp_path) -> Site:
    made = Site(tmp_path, Fleet(DirectoryStore(tmp_path / "store")))
    made.fleet.commit(Source.DEMONSTRATION)
    made.fleet.commit()
    return made


def failing(site: Site) -> Failing:
    return Failing(site.path / "store")


def train(stage: OnlineStage, results: Iterator, to: int) -> int:
    """Train up to an update; return how often the stage waited."""
    waits = 0
    while stage.progress.update < to:
        waits += next(results) is None
    return waits


def close(stage: OnlineStage) -> None:
    stage.reader.close()
    stage.batches.close()


def said(caplog, text: str) -> int:
    return len([record for record in caplog.records if text in record.getMessage()])


def test_training_goes_on_while_the_log_cannot_be_read(site, caplog):
    store = failing(site)
    stage = site.learner(store=store)
    results = stage.run()
    train(stage, results, 5)
    site.fleet.commit()
    store.down = True
    assert train(stage, results, 65) == 0
    assert store.failures > 1
    assert stage.progress.snapshot == 2
    store.down = False
    train(stage, results, 100)
    assert stage.progress.snapshot == 3
    assert said(caplog, "the log cannot be read (503 Service Unavailable)") == 1
    assert said(caplog, "works again after") == 1
    close(stage)


def test_an_outage_leaves_no_trace_in_the_result(site, tmp_path_factory):
    """Repeated from its journal, the stage ends in the bytes that it ended in with the outage."""
    store = failing(site)
    stage = site.learner(store=store)
    results = stage.run()
    train(stage, results, 5)
    stage.save()
    site.fleet.commit()
    store.down = True
    train(stage, results, 25)
    store.down = False
    train(stage, results, 60)
    whole = list(site.published)
    results.close()
    close(stage)
    stage = site.learner(store=store)
    assert stage.progress.update == 5
    results = stage.run()
    train(stage, results, 60)
    assert site.published[len(whole) :] == [item for item in whole if item[0] > 5]
    results.close()
    close(stage)


def test_a_resumed_stage_waits_for_the_snapshot_that_it_repeats(site, caplog):
    store = failing(site)
    stage = site.learner(store=store)
    results = stage.run()
    train(stage, results, 5)
    stage.save()
    site.fleet.commit()
    train(stage, results, 25)
    results.close()
    close(stage)
    stage = site.learner(store=store)
    results = stage.run()
    store.down = True
    waited = 0
    while waited < 5:
        waited += next(results) is None
    assert stage.progress.update == 10  # the look after it found version 3
    store.down = False
    train(stage, results, 30)
    assert stage.progress.snapshot == 3
    results.close()
    close(stage)


def publishing(site: Site) -> tuple[OnlineStage, Failing]:
    """A stage whose policies go through a store of their own connection."""
    store = failing(site)
    site.fleet.store = store
    return site.learner(store=DirectoryStore(site.path / "store")), store


def versions(site: Site) -> list[int]:
    """Update of every published version."""
    store = DirectoryStore(site.path / "store")
    keys = [item.key for item in store.list("policies") if item.key.endswith(".json")]
    manifests = [read_manifest(store, key) for key in keys]
    for manifest in manifests:
        fetch_policy(store, manifest)
    return [manifest.update for manifest in manifests]


def test_training_goes_on_while_no_policy_can_be_published(site, caplog, monkeypatch):
    # Tried again at every update: how many of them a rest lasts is a matter of the machine.
    monkeypatch.setattr(outage, "FIRST_REST_S", 0.0)
    stage, store = publishing(site)
    results = stage.run()
    train(stage, results, 5)
    store.down = True
    assert train(stage, results, 45) == 0
    store.down = False
    train(stage, results, 65)
    results.close()
    close(stage)
    # The one that waited, then the newest; those between were overtaken.
    assert versions(site) == [0, 10, 45, 50, 60] or versions(site) == [0, 10, 46, 50, 60]
    assert said(caplog, "a policy cannot be published (503 Service Unavailable)") == 1


def test_the_last_policy_is_waited_for(site):
    stage, store = publishing(site)
    stage.limits = OnlineLimits(publish_every=1000, max_seconds=0.0)
    store.down = True
    waits = 0
    for result in stage.run():
        waits += result is None
        if waits == 10:
            store.down = False
    assert waits >= 10
    assert stage.progress.finished
    assert versions(site) == [0]


def test_a_stop_does_not_wait_for_the_store(site):
    """A checkpoint is saved, and the next start publishes."""
    stage, store = publishing(site)
    results = stage.run(stop=lambda: stage.progress.update == 12)
    train(stage, results, 5)
    store.down = True
    assert all(result is not None for result in results)
    found = stage.checkpoints.latest()
    assert found is not None
    assert (found.progress.update, found.progress.finished) == (12, False)
    store.down = False
    close(stage)
    again = site.learner()
    assert list(again.run(stop=lambda: True)) == []
    assert versions(site) == [0, 12]


@pytest.mark.parametrize("what", ["reading", "publishing"])
def test_only_a_long_outage_ends_the_stage_with_a_checkpoint(site, what, caplog):
    if what == "reading":
        store = failing(site)
        stage = site.learner(store=store)
    else:
        stage, store = publishing(site)
    for part in (stage._reading, stage._publication.outage):
        part._most_s = 0.3
    results = stage.run()
    train(stage, results, 5)
    store.down = True
    text = "the log cannot be read" if what == "reading" else "a policy cannot be published"
    with pytest.raises(StoreError, match=rf"{text} for 0 min \(503 Service Unavailable\)"):
        for _ in results:
            pass
    found = stage.checkpoints.latest()
    assert found is not None
    assert found.progress == stage.progress
    assert not found.progress.finished
    store.down = False
    close(stage)


@pytest.mark.parametrize("lost", [".json", ".safetensors"])
def test_a_publish_whose_answer_was_lost_is_recognised_as_its_own(tmp_path, lost):
    store = Failing(tmp_path / "store")
    with LearnerLease(store, "run") as lease:
        publish = FleetPublisher(store, lease, lambda: None, None)
        assert publish(b"first", 0, 1) == 0
        store.loses_answer_to = lost
        with pytest.raises(StoreError, match="timeout"):
            publish(b"second", 50, 1)
        assert publish(b"second", 50, 1) == 1
        assert publish(b"third", 100, 1) == 2
    newest = newest_policy(store)
    assert newest is not None
    assert (newest.version, newest.parents) == (2, (1,))


def test_the_policy_of_another_learner_is_not_taken_for_its_own(tmp_path):
    store = Failing(tmp_path / "store")
    with LearnerLease(store, "run") as lease:
        publish = FleetPublisher(store, lease, lambda: None, None)
        intruder = FleetPublisher(store, lease, lambda: None, None)
        assert intruder(b"other", 50, 1) == 0
        with pytest.raises(LeaseTaken, match="published by another learner"):
            publish(b"mine", 50, 1)


def test_a_store_that_lost_its_policies_gets_no_number_that_the_checkpoint_knows(tmp_path):
    store = Failing(tmp_path / "store")
    with LearnerLease(store, "run") as lease:
        publish = FleetPublisher(store, lease, lambda: None, None, at_least=41)
        assert publish(b"first", 50, 1) == 42
