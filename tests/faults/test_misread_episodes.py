"""Reads that are damaged on their way condemn no episode, and a wrong verdict can be taken back."""

import asyncio
import dataclasses
import hashlib
import logging
import os

import numpy as np
import pytest

from lwd.cli.main import dispatch
from lwd.data import validation
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.fresh_read import get_past_caches
from lwd.data.log import LogReader
from lwd.data.quarantine import find_quarantined, list_cases, quarantine, quarantine_key, read_quarantine, standing
from lwd.data.retention import RetentionRules, apply_retention
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError, StoreError
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.judging import Candidate
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool

from ..unit.data.episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)
KEY = "episodes/robot-1/episode-1.arrow"


class Misread(DirectoryStore):
    """A store some of whose reads of one key come damaged: a bit of it is another one."""

    def __init__(self, root, key: str = KEY) -> None:
        super().__init__(root)
        self.key, self.damaged = key, []
        """The numbers of the reads (from 0) that are damaged, and at which byte from the end."""
        self.reads = 0

    def get(self, key, *, max_bytes=None):
        data = super().get(key, max_bytes=max_bytes)
        if key != self.key:
            return data
        number, self.reads = self.reads, self.reads + 1
        for read, at in self.damaged:
            if read == number:
                return data[:-at] + bytes([data[-at] ^ 1]) + data[len(data) - at + 1 :]
        return data


def upload(store, made=None) -> Candidate:
    data = write_episode(made or episode(1))
    store.create(KEY, data)
    return Candidate(key=KEY, uploaded_at_s=1.0, sha256=hashlib.sha256(data).hexdigest())


def coordinator(store) -> Coordinator:
    return Coordinator(store, LIMITS, reread_after_s=0.01)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("at", [1, 400])
def test_misread_episode_is_committed_with_the_hash_of_its_bytes(tmp_path, announced, at):
    store = Misread(tmp_path)
    candidate = upload(store)
    store.damaged = [(0, at)]
    given = candidate if announced else dataclasses.replace(candidate, sha256=None)
    judge = coordinator(store)
    result = judge.process([given])
    if not result.committed:  # reads that differ: the next listing decides
        assert result.missing == [KEY]
        result = judge.process(judge.unprocessed())
    assert [entry.sha256 for entry in result.committed] == [candidate.sha256]
    assert find_quarantined(store, KEY) is None


def test_misread_that_still_looks_like_an_episode_is_not_committed(tmp_path):
    """A bit of an uncompressed number: nothing in the file tells that it is wrong."""
    made = episode(1)
    other = dataclasses.replace(made, states_TS=made.states_TS + np.float32(0.25))
    plain, forged = write_episode(made), write_episode(other)

    class Other(DirectoryStore):
        reads = 0

        def get(self, key, *, max_bytes=None):
            data = super().get(key, max_bytes=max_bytes)
            if key == KEY:
                self.reads += 1
                return forged if self.reads == 1 else data
            return data

    store = Other(tmp_path)
    store.create(KEY, plain)
    judge = coordinator(store)
    judge.process(judge.unprocessed())
    judge.process(judge.unprocessed())
    assert judge.reader.find("robot-1/episode-1").entry.sha256 == hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize("announced", [True, False])
def test_reads_that_differ_each_time_are_no_verdict_and_warned_about(tmp_path, caplog, announced):
    store = Misread(tmp_path)
    candidate = upload(store)
    store.damaged = [(number, 300 + number) for number in range(4)]
    given = candidate if announced else dataclasses.replace(candidate, sha256=None)
    judge = coordinator(store)
    result = judge.process([given])
    assert (result.committed, result.quarantined, result.missing) == ([], [], [KEY])
    assert f"{KEY} reads differently each time" in caplog.text
    assert "check the store's disks" in caplog.text
    store.damaged = []
    assert [item.key for item in judge.unprocessed()] == [KEY]
    assert len(judge.process(judge.unprocessed()).committed) == 1


def test_only_reads_that_agree_condemn(tmp_path):
    store = Misread(tmp_path)
    candidate = upload(store)
    store.damaged = [(number, 300) for number in range(3)]
    result = coordinator(store).process([candidate])
    ((key, reason),) = result.quarantined
    assert key == KEY
    assert f"the robot announced {candidate.sha256}" in reason
    assert store.reads == 3
    assert find_quarantined(store, KEY).sha256 not in (None, candidate.sha256)


def test_want_of_memory_condemns_no_episode(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path)
    candidate = upload(store)
    read, failures = validation.read_episode, [MemoryError("once"), None]

    def scarce(data, **limits):
        if error := failures.pop(0):
            raise error
        return read(data, **limits)

    monkeypatch.setattr(validation, "read_episode", scarce)
    assert len(coordinator(store).process([candidate]).committed) == 1


def test_second_read_of_a_directory_comes_from_its_disk(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path)
    upload(store)
    evicted = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *advice: evicted.append(advice[1:]))
    assert get_past_caches(store, KEY) == store.get(KEY)
    assert evicted == [(0, 0, os.POSIX_FADV_DONTNEED)]
    store.evict("episodes/robot-1/nothing.arrow")
    with pytest.raises(StoreError):
        get_past_caches(store, "episodes/robot-1/nothing.arrow")


# ---- taking a verdict back ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run with an episode that was refused for a limit that was wrong, and one that is in the log."""
    store = DirectoryStore(tmp_path / "run" / "store")
    upload(store)
    good = write_episode(episode(2))
    store.create(episode_key("robot-1", "episode-2"), good)
    strict = Coordinator(store, EpisodeLimits(embodiment=EMBODIMENT, max_fleet_steps=10), reread_after_s=0.0)
    strict._judge._limits = LIMITS
    strict.process([Candidate(key=episode_key("robot-1", "episode-2"), uploaded_at_s=1.0)])
    strict._judge._limits = EpisodeLimits(embodiment=EMBODIMENT, max_fleet_steps=10)
    assert strict.process(strict.unprocessed()).quarantined
    return tmp_path / "run"


def store_of(run) -> DirectoryStore:
    return DirectoryStore(run / "store")


def test_released_object_is_judged_anew_by_a_running_coordinator(run, capsys):
    store = store_of(run)
    right, wrong = coordinator(store), coordinator(store)
    wrong._judge._limits = EpisodeLimits(embodiment=EMBODIMENT, max_fleet_steps=5)
    assert right.unprocessed() == []
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", KEY, "--reason", "limit was wrong"]) == 0
    assert standing(store, KEY).released
    assert [item.key for item in wrong.unprocessed()] == [KEY]
    assert wrong.process(wrong.unprocessed()).quarantined  # it still fails: a verdict of its own
    assert "max_fleet_steps is 5" in find_quarantined(store, KEY).reason
    assert right.unprocessed() == []
    assert Coordinator(store, LIMITS).unprocessed() == []
    assert len(read_quarantine(store)) == right.quarantined == 1
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", KEY]) == 0
    assert [item.key for item in right.unprocessed()] == [KEY]
    assert len(right.process(right.unprocessed()).committed) == 1
    assert right.quarantined == len(read_quarantine(store)) == 0
    # Nothing was deleted: both verdicts and both releases are still there.
    (case,) = list_cases(store).values()
    assert len(case.records) == 4
    assert "max_fleet_steps is 10" in store.get(quarantine_key(KEY)).decode()
    capsys.readouterr()


def test_release_names_what_it_cannot_do(run, capsys):
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", "episodes/robot-1/other.arrow"]) == 1
    assert "is not quarantined: give an object as" in capsys.readouterr().err
    assert dispatch(["data", "quarantine", "--run", str(run), "--replace"]) == 1
    assert "go with --release" in capsys.readouterr().err
    assert find_quarantined(store_of(run), KEY) is not None


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": "lwd-quarantine-9"}', b"\xff\xfe", b'{"key": 3}'])
def test_damaged_record_is_named_with_a_remedy_that_works(run, capsys, content):
    store = store_of(run)
    path = run / "store" / quarantine_key(KEY)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"`lwd data quarantine --release {quarantine_key(KEY)}`"):
        find_quarantined(store, KEY)
    assert Coordinator(store, LIMITS).unprocessed() == []
    assert dispatch(["data", "quarantine", "--run", str(run)]) == 0
    assert quarantine_key(KEY) in capsys.readouterr().out.replace("\n", "")
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", quarantine_key(KEY)]) == 0
    judge = coordinator(store)
    assert len(judge.process(judge.unprocessed()).committed) == 1


def test_retention_takes_all_records_of_a_case_and_spares_released_ones(run):
    store = store_of(run)
    rules = RetentionRules(quarantined_days=0)
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", KEY]) == 0
    apply_retention(store, rules, watch_s=0)
    assert standing(store, KEY).released
    quarantine(store, KEY, "still wrong")
    assert find_quarantined(store, KEY).reason == "still wrong"
    apply_retention(store, rules, watch_s=0)
    assert list(store.list("quarantine")) == []
    assert [item.key for item in store.list("episodes")] == [episode_key("robot-1", "episode-2")]


# ---- the host's copy ------------------------------------------------------------------------------------------


def shipped(run, store, made=None) -> tuple[Shipper, Spool]:
    """A host that has uploaded episode 1."""
    spool = Spool(run / "spool")
    spool.claim("robot-1")
    shipper = Shipper(store, spool, {"robot-1"})
    asyncio.run(shipper.spool(made or episode(1)))
    asyncio.run(shipper.upload())
    return shipper, spool


def follow(shipper: Shipper) -> None:
    """Look at log and quarantine as if the time for it had come."""
    for item in shipper._items.values():
        item.look_at_s = 0.0
    for kept in shipper._rejected._kept.values():
        kept.look_at_s = 0.0
    asyncio.run(shipper.follow_log())


def test_host_keeps_its_copy_until_the_verdict_is_final(run):
    store = store_of(run)
    shipper, spool = shipped(run, store)
    aside = run / "spool" / "robot-1" / "rejected" / "episode-1.arrow"
    follow(shipper)
    assert (spool.pending(), aside.exists()) == ([], True)
    assert "max_fleet_steps is 10" in aside.with_suffix(".txt").read_text()
    for _ in range(3):
        follow(shipper)
    assert aside.exists()
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", KEY]) == 0
    judge = coordinator(store)
    assert len(judge.process(judge.unprocessed()).committed) == 1
    # A successor of the host: it finds what lies aside.
    spool.close()
    successor = Spool(run / "spool")
    successor.claim("robot-1")
    shipper = Shipper(store, successor, {"robot-1"})
    asyncio.run(shipper.adopt())
    follow(shipper)
    assert (aside.exists(), aside.with_suffix(".txt").exists(), successor.pending()) == (False, False, [])
    assert successor.used_bytes == 0


def test_host_says_that_the_store_damaged_it_and_uploads_it_again(tmp_path, capsys):
    run = tmp_path / "run"
    store = store_of(run)
    store.create(episode_key("robot-1", "episode-2"), write_episode(episode(2)))
    judge = coordinator(store)
    judge.process(judge.unprocessed())
    shipper, spool = shipped(run, store)
    (item,) = shipper._items.values()
    path = run / "store" / KEY
    whole = path.read_bytes()
    path.write_bytes(whole[:-300] + bytes([whole[-300] ^ 4]) + whole[-299:])
    announced = Candidate(key=KEY, uploaded_at_s=1.0, sha256=item.sha256)
    assert judge.process([announced]).quarantined
    follow(shipper)
    told = (run / "spool" / "robot-1" / "rejected" / "episode-1.txt").read_text()
    assert "the store's object is damaged and this copy is good" in told
    command = told.partition("`lwd ")[2].partition("`")[0].split()
    assert dispatch([*command, "--run", str(run)]) == 0
    assert not path.exists()
    follow(shipper)
    assert [item.episode_id for item in spool.pending()] == ["episode-1"]
    asyncio.run(shipper.upload())
    assert path.read_bytes() == whole
    assert len(judge.process(judge.unprocessed()).committed) == 1
    follow(shipper)
    assert (spool.pending(), spool.rejected(), shipper.committed) == ([], [], 1)
    capsys.readouterr()


def test_replace_deletes_nothing_that_is_committed(run, capsys):
    store = store_of(run)
    committed = episode_key("robot-1", "episode-2")
    quarantine(store, committed, "one of two coordinators refused it")
    assert dispatch(["data", "quarantine", "--run", str(run), "--release", committed, "--replace"]) == 1
    assert "was committed since" in capsys.readouterr().err
    assert store.get(committed)


def test_misread_at_a_repeated_upload_condemns_nothing(tmp_path):
    """The host compares its bytes with what is stored, and one of these reads is damaged."""
    run = tmp_path / "run"
    store = Misread(run / "store")
    upload(store)
    store.damaged = [(0, 300)]
    shipper, spool = shipped(run, store)
    assert spool.rejected() == []
    (item,) = shipper._items.values()
    assert item.uploaded_at_s is not None


def test_other_bytes_under_the_key_keep_it_aside_only_when_reads_agree(tmp_path, monkeypatch):
    run = tmp_path / "run"
    store = store_of(run)
    store.create(KEY, b"something else")
    shipper, spool = shipped(run, store)
    for _ in range(2):
        assert len(spool.pending()) == 1
        for item in shipper._items.values():
            item.rest_until_s = 0.0
        asyncio.run(shipper.upload())
    assert spool.pending() == []
    assert [item.episode_id for item in spool.rejected()] == ["episode-1"]


def test_damaged_record_of_one_episode_does_not_stop_the_hosts_others(run, caplog):
    caplog.set_level(logging.WARNING)
    store = store_of(run)
    shipper, spool = shipped(run, store)
    asyncio.run(shipper.spool(episode(2)))
    asyncio.run(shipper.upload())
    (run / "store" / quarantine_key(KEY)).write_bytes(b"")
    with pytest.raises(StoreError, match="--release"):
        follow(shipper)
    assert [item.episode_id for item in spool.pending()] == ["episode-1"]
    assert shipper.committed == 1


def test_releasing_twice_says_so(run):
    from lwd.data.quarantine import case_name, release

    store = store_of(run)
    release(store, case_name(KEY), reason="x")
    with pytest.raises(ConfigError, match="is released already"):
        release(store, case_name(KEY), reason="x")
    with pytest.raises(ConfigError, match="is not quarantined"):
        release(store, case_name("other"), reason="x")
    reader = LogReader(store)
    reader.poll()
    assert list(reader.snapshot.episodes) == ["robot-1/episode-2"]
