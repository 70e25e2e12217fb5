"""A spool deletes an episode only when the store that it knows has just shown the log entry with it."""

import asyncio
import shutil

import pytest

from lwd.data.identity import IDENTITY_KEY, OtherStore
from lwd.data.log import log_key
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import StoreError
from lwd.fleet.coordinator import Candidate, Coordinator
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool
from lwd.fleet.spool_files import STORE_NOTE

from ..data.episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)
ROBOT = "robot-1"


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.claim(ROBOT)
    yield spool
    spool.close()


def run(coroutine):
    return asyncio.run(coroutine)


def uploaded(store, spool, count: int = 3) -> Shipper:
    shipper = Shipper(store, spool, {ROBOT})
    for number in range(count):
        run(shipper.spool(episode(number)))
    run(shipper.upload())
    return shipper


def commit_all(store) -> Coordinator:
    coordinator = Coordinator(store, LIMITS)
    coordinator.process([Candidate(key=item.key, uploaded_at_s=1.0) for item in store.list("episodes")])
    return coordinator


def test_spool_gets_empty_once_the_log_has_its_episodes(store, spool, caplog):
    shipper = uploaded(store, spool)
    commit_all(store)
    run(shipper.follow_log())
    assert (shipper.waiting, shipper.committed, spool.pending()) == (0, 3, [])
    assert (spool.root / STORE_NOTE).exists()
    assert STORE_NOTE not in caplog.text, "our own note is nothing strange"


def test_spool_deletes_nothing_on_the_word_of_an_earlier_poll(store, spool, monkeypatch):
    """The store is swapped for an empty one between the poll and the deletion."""
    shipper = uploaded(store, spool)
    commit_all(store)
    shipper._reader.poll()
    kept = store.root.rename(store.root.with_name("aside"))
    store.root.mkdir()
    monkeypatch.setattr(shipper._reader, "poll", list)
    with pytest.raises(StoreError, match="is the disk mounted"):
        run(shipper.follow_log())
    assert len(spool.pending()) == 3
    store.root.rmdir()
    kept.rename(store.root)
    run(shipper.follow_log())
    assert spool.pending() == []


@pytest.mark.parametrize("change", ["gone", "another"])
def test_spool_deletes_nothing_whose_entry_is_not_there_any_more(store, spool, monkeypatch, change):
    shipper = uploaded(store, spool)
    commit_all(store)
    shipper._reader.poll()
    monkeypatch.setattr(shipper._reader, "poll", list)
    entry = store.root / log_key(1)
    entry.unlink() if change == "gone" else entry.write_bytes(
        entry.read_bytes().replace(b'"sha256":"', b'"sha256":"0')[:-1]
    )
    with pytest.raises(StoreError):
        run(shipper.follow_log())
    assert len(spool.pending()) == 3


def test_spool_keeps_its_episodes_from_a_store_of_another_identity(store, spool, tmp_path):
    """A name that resolves elsewhere: that store has the same ids committed."""
    shipper = uploaded(store, spool)
    commit_all(store)
    run(shipper.follow_log())
    other = DirectoryStore(tmp_path / "other")
    for number in range(4, 6):
        run(shipper.spool(episode(number)))
    shutil.copytree(store.root / "episodes", other.root / "episodes")
    for item in spool.pending():
        other.create(item.key, item.read()[0])
    commit_all(other)
    successor = Shipper(other, spool, {ROBOT})
    run(successor.adopt())
    with pytest.raises(OtherStore, match="not the store of the spool"):
        run(successor.follow_log())
    with pytest.raises(OtherStore, match="not the store of the spool"):
        run(successor.upload())
    assert len(spool.pending()) == 2


def test_spool_keeps_its_episodes_from_a_store_without_identity(store, spool):
    shipper = uploaded(store, spool)
    commit_all(store)
    (store.root / IDENTITY_KEY).unlink()
    with pytest.raises(StoreError, match=r"no identity yet|found none"):
        run(shipper.follow_log())
    assert len(spool.pending()) == 3


def test_episode_whose_upload_is_gone_is_uploaded_again(store, spool, monkeypatch):
    """It went into another store in this one's place, or the store was restored from an older copy."""
    shipper = uploaded(store, spool)
    shutil.rmtree(store.root / "episodes")
    for item in shipper._items.values():
        item.look_at_s = 0.0
    run(shipper.follow_log())
    run(shipper.upload())
    commit_all(store)
    run(shipper.follow_log())
    assert (spool.pending(), shipper.committed) == ([], 3)
