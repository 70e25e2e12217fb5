"""Copies of a store: whole at every moment, resumable, verified, and taken while the fleet runs."""

import contextlib
import hashlib
import threading

import pytest
from obstore.store import MemoryStore

from lwd.data.copying import copy_store
from lwd.data.identity import found_store, read_identity
from lwd.data.leases import SnapshotLease
from lwd.data.log import LogEntry, LogReader, index_of
from lwd.data.log_index import index_key
from lwd.data.policies import PolicyPublisher, fetch_policy, newest_policy
from lwd.data.quarantine import quarantine
from lwd.data.retention import RetentionRules, apply_retention
from lwd.data.revocation import newest_log, revoke_selected
from lwd.data.selection import Selection
from lwd.data.store import DirectoryStore, ObjectStore, RemoteStore, get_or_none, open_store, probe_store
from lwd.data.validation import EpisodeLimits
from lwd.errors import StoreError
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.ingest import ingest

from .episodes import EMBODIMENT, episode
from .small_store import Stepping, commit, content, missing_from, objects, upload

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)
AT_ONCE = RetentionRules(revoked_days=0, policy_days=0, keep_policies=1)
EVERYTHING = ("episodes", "quarantine", "policies", "log", "index", "removed")


def memory() -> RemoteStore:
    return RemoteStore(MemoryStore(), "memory:///")


@pytest.fixture
def source() -> ObjectStore:
    """Everything a store has: a revoked episode, one not judged yet, a refused one, policies, an index, a lease."""
    store = memory()
    commit(store, "a", "b")
    commit(store, "c")
    commit(store, revoked=("a",))
    upload(store, "not-judged-yet")
    upload(store, "refused")
    quarantine(store, "episodes/r1/refused.arrow", "broken")
    for version in range(2):
        PolicyPublisher(store).publish(b"weights %d" % version, update=0, snapshot=2)
    store.create(index_key(3), index_of(newest_log(store).snapshot))
    store.create("readers/host-1-x/000000000000-000000000001", b"{}")
    store.create("probe/left", b"x")
    return store


def contents(store) -> dict[str, bytes]:
    return {key: store.get(key) for prefix in EVERYTHING for key in objects(store, prefix)}


class Watched(Stepping):
    """A target that checks at every log entry and manifest that what it names is there already."""

    def create(self, key: str, data: bytes):
        if key.startswith("log/"):
            for added in LogEntry.model_validate_json(data).added:
                if hashlib.sha256(get_or_none(self.inner, added.key) or b"").hexdigest() != added.sha256:
                    # Only what the source lacks, too: revoked, and removed by retention.
                    assert added.episode_id == "a"
        if key.startswith("index/"):
            assert newest_log(self.inner).version >= int(key[6:18])
        if key.startswith("policies/") and key.endswith(".json"):
            assert get_or_none(self.inner, key.replace(".json", ".safetensors")) is not None
        return super().create(key, data)


def test_everything_is_copied_but_leases_and_probes(source):
    target = memory()
    result = copy_store(source, Watched(target))
    assert contents(target) == contents(source)
    assert len(contents(target)) == 5 + 1 + 4 + 3 + 1
    assert (result.version, result.episodes, result.copied, result.present) == (3, 2, 14, 0)
    assert result.copied_bytes == sum(map(len, contents(source).values()))
    assert objects(target, "readers") == objects(target, "probe") == []
    again = copy_store(source, target)
    assert (again.copied, again.copied_bytes, again.present) == (0, 0, 14)


class Killed(Exception):
    """The process died."""


def _die() -> None:
    raise Killed


def test_a_copy_that_is_killed_at_any_moment_is_whole_and_goes_on(source):
    whole = contents(source)
    for at in range(1, 100):
        target = memory()
        killed = Watched(target, at, hook=_die)
        with contextlib.suppress(Killed):
            copy_store(source, killed)
        assert missing_from(target, newest_log(target).version) == []
        if (newest := newest_policy(target)) is not None:
            fetch_policy(target, newest)
        copy_store(source, Watched(target))
        assert contents(target) == whole
        if not killed.reached:
            return
    raise AssertionError("it never ended")


def test_what_is_new_comes_with_the_next_copy(source):
    target = memory()
    copy_store(source, target)
    commit(source, "d")
    commit(source, revoked=("c",))
    result = copy_store(source, target)
    assert (result.version, result.copied) == (5, 3)
    assert list(newest_log(target).snapshot.episodes) == ["r1/b", "r1/d"]


def test_what_retention_has_taken_is_not_missed(source):
    for key in objects(source, "readers"):
        source.delete(key)
    apply_retention(source, AT_ONCE)
    assert "episodes/r1/a.arrow" not in objects(source, "episodes")
    target = memory()
    copy_store(source, Watched(target))
    assert contents(target) == contents(source)
    assert missing_from(target, 3) == []
    with pytest.raises(StoreError, match="snapshots from 2 on can no longer be read in full"):
        SnapshotLease(target, 2)


def test_retention_at_any_moment_of_a_copy(source):
    for at in range(1, 100):
        running, target = memory(), memory()
        copy_store(source, running)
        racing = Stepping(running, at, hook=lambda running=running: apply_retention(running, AT_ONCE))
        copy_store(racing, Watched(target))
        assert missing_from(target, 3) == []
        fetch_policy(target, newest_policy(target))
        if not racing.reached:
            return
    raise AssertionError("it never ended")


def test_altered_objects_are_not_copied(source):
    source.delete("episodes/r1/b.arrow")
    source.create("episodes/r1/b.arrow", b"other bytes")
    target = memory()
    with pytest.raises(StoreError, match=r"episodes/r1/b.arrow in the source has sha256"):
        copy_store(source, target)
    assert objects(target, "log") == []


def test_a_lost_episode_is_named(source):
    source.delete("episodes/r1/c.arrow")
    with pytest.raises(StoreError, match=r"episodes/r1/c.arrow is in the log and not in the source"):
        copy_store(source, memory())


def test_verify_finds_what_the_target_lost_after_it_was_copied(source):
    target = memory()
    copy_store(source, target)
    target.delete("episodes/r1/b.arrow")
    target.create("episodes/r1/b.arrow", content("x"))  # of the same size
    copy_store(source, target)
    with pytest.raises(StoreError, match=r"episodes/r1/b.arrow in the target has sha256"):
        copy_store(source, target, verify=True)


def test_a_store_with_another_log_is_no_target(source):
    target = memory()
    commit(target, "a")
    before = {key: target.get(key) for key in objects(target, "episodes")}
    with pytest.raises(StoreError, match="is no copy of this source"):
        copy_store(source, target)
    assert {key: target.get(key) for key in objects(target, "episodes")} == before
    ahead = memory()
    copy_store(source, ahead)
    commit(ahead, "z")
    with pytest.raises(StoreError, match="it ends at version 3"):
        copy_store(source, ahead)


def test_a_backup_of_a_running_store_can_be_restored_and_goes_on(tmp_path):
    """The recipe: `lwd data copy` while coordinator and robots write, no pause; restore is the way back."""
    running, backup = DirectoryStore(tmp_path / "store"), DirectoryStore(tmp_path / "backup")
    errors: list[Exception] = []

    def fleet() -> None:
        try:
            for begin in range(0, 60, 4):
                ingest(running, [episode(n, robot_id=f"r{n % 2}") for n in range(begin, begin + 4)], LIMITS, batch=2)
                PolicyPublisher(running).publish(b"weights %d" % begin, update=begin, snapshot=0)
                revoke_selected(running, Selection(episodes=frozenset({f"episode-{begin}"})))
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    thread = threading.Thread(target=fleet)
    thread.start()
    versions = [copy_store(running, Watched(backup)).version for _ in range(3)]
    assert versions == sorted(versions)
    thread.join()
    assert errors == []
    restored = DirectoryStore(tmp_path / "restored")
    assert copy_store(backup, restored).version == versions[-1]
    for item in newest_log(restored).snapshot.episodes.values():
        assert hashlib.sha256(restored.get(item.entry.key)).hexdigest() == item.entry.sha256
    # A coordinator on the restored store commits what had been uploaded, and once only.
    coordinator = Coordinator(restored, LIMITS)
    coordinator.process(coordinator.unprocessed())
    final = LogReader(restored)
    final.poll()
    assert coordinator.unprocessed() == []
    assert all(final.knows(key.removeprefix("episodes/")[:-6]) for key in objects(restored, "episodes"))
    # And the running store had nothing taken from it.
    assert copy_store(running, backup).version == newest_log(running).version


def test_a_directory_moves_to_s3_and_the_fleet_goes_on_there(seaweed, tmp_path):
    directory = DirectoryStore(tmp_path / "store")
    ingest(directory, [episode(number) for number in range(12)], LIMITS, batch=4)
    PolicyPublisher(directory).publish(b"weights", update=0, snapshot=1)
    revoke_selected(directory, Selection(episodes=frozenset({"episode-3"})))
    s3 = open_store(seaweed.store_config("moved"))
    probe_store(s3)
    killed = Stepping(s3, 12, hook=_die)
    with pytest.raises(Killed):
        copy_store(directory, killed)
    result = copy_store(directory, Watched(s3), verify=True)
    assert (result.version, result.episodes) == (4, 11)
    assert result.present > 0
    assert contents(s3) == contents(directory)
    # The fleet on S3: the next episode, a revocation, a reader with a lease, retention.
    ingest(s3, [episode(12)], LIMITS)
    assert revoke_selected(s3, Selection(episodes=frozenset({"episode-4"}))).version == 6
    with SnapshotLease(s3, 5):
        apply_retention(s3, AT_ONCE)
        keys = objects(s3, "episodes")
        assert "episodes/robot-1/episode-4.arrow" in keys
        assert "episodes/robot-1/episode-3.arrow" not in keys
    apply_retention(s3, AT_ONCE)
    assert "episodes/robot-1/episode-4.arrow" not in objects(s3, "episodes")
    assert fetch_policy(s3, newest_policy(s3)) == b"weights"


def test_copy_keeps_the_identity_and_refuses_another_store():
    source, target, other = memory(), memory(), memory()
    identity = found_store(source)
    found_store(other)
    commit(source, "a")
    copy_store(source, target)
    assert read_identity(target) == identity
    commit(source, "b")
    assert copy_store(source, target).version == 2
    with pytest.raises(StoreError, match="no copy of this source"):
        copy_store(source, other)
    assert objects(other, "log") == []
