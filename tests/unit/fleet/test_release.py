"""Policy release: versions, hashes, and robots that find the newest whatever they missed."""

import asyncio
import json
import time

import pytest

from lwd.data.policies import (
    LAST_VERSION,
    PolicyPublisher,
    StateReference,
    fetch_policy,
    manifest_key,
    newest_policy,
    policy_key,
    read_manifest,
)
from lwd.data.store import DirectoryStore
from lwd.errors import CheckpointError, ManifestDamaged, PolicyFault, RobotFault, StoreError
from lwd.fleet.messages import PolicyPointer
from lwd.fleet.release import PolicyFollower, pointer_of

from ... import point_mass


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


def follower(store, max_loaded: int = 3) -> PolicyFollower:
    return PolicyFollower(store, point_mass.load_policy, max_loaded=max_loaded)


def test_versions_count_up_across_publishers(store):
    first = PolicyPublisher(store)
    assert first.newest == -1
    assert first.publish(b"zero", update=0, snapshot=0).version == 0
    assert first.publish(b"one", update=50, snapshot=3, parents=(0,)).version == 1
    assert PolicyPublisher(store).publish(b"two", update=100, snapshot=5).version == 2
    manifest = newest_policy(store)
    assert (manifest.version, manifest.update, manifest.snapshot) == (2, 100, 5)
    assert fetch_policy(store, manifest) == b"two"
    assert newest_policy(store, after=1).version == 2
    assert newest_policy(store, after=2) is None
    assert read_manifest(store, manifest_key(1)).parents == (0,)


def test_two_learners_are_detected(store):
    one, other = PolicyPublisher(store), PolicyPublisher(store)
    one.publish(b"mine", update=0, snapshot=0)
    with pytest.raises(StoreError, match="published by another learner"):
        other.publish(b"theirs", update=0, snapshot=0)


def test_a_publisher_that_died_before_its_manifest_published_nothing(store):
    store.create("policies/000000000000.safetensors", b"orphan")
    assert newest_policy(store) is None
    assert PolicyPublisher(store).publish(b"whole", update=0, snapshot=0).version == 1
    assert newest_policy(store).version == 1


def test_altered_bytes_are_refused(store, tmp_path):
    manifest = PolicyPublisher(store).publish(b"good", update=0, snapshot=0)
    (tmp_path / manifest.key).write_bytes(b"evil")
    with pytest.raises(StoreError, match="has SHA-256"):
        fetch_policy(store, manifest)


def test_a_robot_without_a_bus_finds_the_newest_policy(store):
    publisher = PolicyPublisher(store)
    for gain in (1.0, 2.0, 3.0):
        publisher.publish(point_mass.policy_bytes(gain), update=0, snapshot=0)
    policies = follower(store)

    async def look() -> bool:
        await policies.look(None)
        return await policies.load_wanted()

    assert asyncio.run(look())
    assert policies.version == 2
    assert policies.newest.policy.gain == 3.0
    assert not asyncio.run(look())


def test_a_robot_that_missed_ten_versions_loads_the_newest(store, tmp_path):
    """Whether it hears of it from an announcement, or has only the store; no version in between is downloaded."""
    publisher = PolicyPublisher(store)
    publisher.publish(point_mass.policy_bytes(0.0), update=0, snapshot=0)
    loaded: list[str] = []

    class Counting(DirectoryStore):
        def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            loaded.append(key)
            return super().get(key, max_bytes=max_bytes)

    robots = [PolicyFollower(Counting(tmp_path), point_mass.load_policy, max_loaded=3) for _ in range(2)]
    for robot in robots:
        asyncio.run(robot.look(None))
        assert asyncio.run(robot.load_wanted())
        robot.in_use = frozenset({0})
    for gain in range(1, 12):
        newest = publisher.publish(point_mass.policy_bytes(float(gain)), update=gain, snapshot=gain)
    loaded.clear()
    robots[0].want(pointer_of(newest))
    asyncio.run(robots[1].look(None))
    for robot in robots:
        assert asyncio.run(robot.load_wanted())
        assert (robot.version, robot.newest.policy.gain) == (11, 11.0)
        assert not asyncio.run(robot.load_wanted())
    assert set(loaded) == {newest.key, manifest_key(11)}


def test_a_manifest_names_the_state_it_came_from_and_may_be_signed(store):
    publisher = PolicyPublisher(store)
    first = publisher.publish(b"zero", update=0, snapshot=0)
    state = StateReference(update=40, sha256="a" * 64)
    second = publisher.publish(b"one", update=50, snapshot=3, parents=(0,), algorithm_state=state)
    assert (first.algorithm_state, first.signature) == (None, None)
    assert read_manifest(store, manifest_key(1)) == second
    assert second.algorithm_state == state
    # A later learner may sign; today's robots read its manifest, and still refuse a field that nobody has declared.
    signed = second.model_copy(update={"version": 2, "key": policy_key(2), "signature": "ed25519:abc"})
    store.create(manifest_key(2), signed.model_dump_json().encode())
    assert newest_policy(store) == signed
    store.create(manifest_key(3), signed.model_dump_json().replace("signature", "signatures").encode())
    with pytest.raises(ManifestDamaged, match="signatures: Extra inputs are not permitted"):
        read_manifest(store, manifest_key(3))
    assert newest_policy(store) == signed


def test_a_manifest_of_before_these_fields_is_read(store):
    manifest = PolicyPublisher(store).publish(b"zero", update=0, snapshot=0)
    old = manifest.model_dump(mode="json", exclude={"algorithm_state", "signature"})
    store.create(manifest_key(1), json.dumps(old | {"version": 1, "key": policy_key(1)}).encode())
    assert newest_policy(store) == manifest.model_copy(update={"version": 1, "key": policy_key(1)})


def test_a_broken_policy_leaves_the_old_one_in_use_and_a_later_one_is_taken(store):
    publisher = PolicyPublisher(store)
    publisher.publish(point_mass.policy_bytes(1.0), update=0, snapshot=0)
    policies = follower(store)

    def offer(data: bytes) -> bool:
        policies.want(pointer_of(publisher.publish(data, update=1, snapshot=1)))
        return asyncio.run(policies.load_wanted())

    asyncio.run(policies.look(None))
    asyncio.run(policies.load_wanted())
    tampered = publisher.publish(point_mass.policy_bytes(9.0), update=1, snapshot=1)
    # The announcement lies, the store does not.
    policies.want(pointer_of(tampered).model_copy(update={"sha256": "0" * 64}))
    assert asyncio.run(policies.load_wanted())
    assert policies.version == 1
    assert not offer(b"no safetensors file")
    assert policies.version == 1
    assert offer(point_mass.policy_bytes(2.0))
    assert policies.version == 3


def test_newer_versions_wait_while_memory_is_full(store):
    publisher = PolicyPublisher(store)
    policies = follower(store, max_loaded=2)
    for version, in_use, loaded in [(0, set(), True), (1, {0}, True), (2, {0, 1}, False), (3, {1}, True)]:
        policies.in_use = frozenset(in_use)
        policies.want(pointer_of(publisher.publish(point_mass.policy_bytes(version), update=0, snapshot=0)))
        assert asyncio.run(policies.load_wanted()) is loaded
    assert policies.version == 3


def test_a_download_that_failed_is_tried_again(store, caplog):
    class Flaky(DirectoryStore):
        failures = 2

        def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            if key.endswith(".safetensors") and self.failures:
                self.failures -= 1
                raise StoreError("503 Slow Down")
            return super().get(key, max_bytes=max_bytes)

    PolicyPublisher(store).publish(point_mass.policy_bytes(1.0), update=0, snapshot=0)
    policies = follower(Flaky(store._root))
    failed = 0
    while policies.newest is None:
        asyncio.run(policies.look(None))
        asyncio.run(policies.load_wanted())
        if policies.newest is None:
            assert policies.complaint == "policy 0 is not used yet: 503 Slow Down"
            failed += 1
            time.sleep(0.02)
        assert failed < 500
    assert (policies.version, policies.complaint, policies.unused) == (0, "", 0)
    assert sum("next try in" in record.message for record in caplog.records) == 2


def test_wrong_bytes_are_read_again_before_a_version_is_given_up(tmp_path, store):
    publisher = PolicyPublisher(store)
    publisher.publish(point_mass.policy_bytes(1.0), update=0, snapshot=0)
    bad = publisher.publish(point_mass.policy_bytes(9.0), update=1, snapshot=0)
    good = (tmp_path / bad.key).read_bytes()
    (tmp_path / bad.key).write_bytes(good[:-1] + b"x")
    policies = follower(store)

    async def look(force: int = -1) -> bool:
        if force in policies._postponed:
            policies._postponed[force].until_s = 0.0
        await policies.look(None)
        return await policies.load_wanted()

    # Once may be a cache; the version before is good enough meanwhile.
    assert not asyncio.run(look())
    assert (policies.unused, policies.version) == (0, -1)
    assert asyncio.run(look())
    assert policies.version == 0
    (tmp_path / bad.key).write_bytes(good)
    assert asyncio.run(look(1))
    assert policies.version == 1
    worse = publisher.publish(point_mass.policy_bytes(8.0), update=2, snapshot=0)
    (tmp_path / worse.key).write_bytes(b"x" * worse.bytes)
    assert not asyncio.run(look())
    assert not asyncio.run(look(2))
    assert policies.unused == 1
    assert "policy 2 is not used: policies/000000000002.safetensors has SHA-256" in policies.complaint


def test_whatever_loading_raises_leaves_the_fleet_with_the_newest_policy_that_loads(store):
    errors = [KeyError("gain"), RuntimeError("size mismatch"), MemoryError(), RecursionError(), UnicodeError("?")]
    errors += [ZeroDivisionError(), OSError(5, "EIO"), type("PanicException", (BaseException,), {})("rust")]
    publisher = PolicyPublisher(store)
    publisher.publish(point_mass.policy_bytes(7.0), update=0, snapshot=0)
    for number in range(len(errors)):
        publisher.publish(b"%d" % number, update=0, snapshot=0)

    def load(data: bytes) -> point_mass.SteeringPolicy:
        if len(data) == 1:
            raise errors[int(data)]
        return point_mass.load_policy(data)

    # A host that starts now has no policy: it goes down to one that it can use.
    policies = PolicyFollower(store, load, max_loaded=3)
    for _ in errors:
        assert policies.newest is None
        asyncio.run(policies.look(None))
        assert not asyncio.run(policies.load_wanted())
    asyncio.run(policies.look(None))
    assert asyncio.run(policies.load_wanted())
    assert (policies.version, policies.unused) == (0, len(errors))
    # The same bytes under another number are not even tried.
    errors[3] = AssertionError("tried again")
    publisher.publish(b"3", update=1, snapshot=0)
    asyncio.run(policies.look(None))
    assert not asyncio.run(policies.load_wanted())
    publisher.publish(point_mass.policy_bytes(8.0), update=2, snapshot=0)
    asyncio.run(policies.look(None))
    assert asyncio.run(policies.load_wanted())
    assert (policies.version, policies.complaint) == (10, "")


def test_pointers_that_lead_nowhere_hide_no_policy(store, caplog):
    publisher = PolicyPublisher(store)
    publisher.publish(point_mass.policy_bytes(1.0), update=0, snapshot=0)
    policies = follower(store)
    asyncio.run(policies.look(None))
    assert asyncio.run(policies.load_wanted())
    real = publisher.publish(point_mass.policy_bytes(2.0), update=0, snapshot=0)
    for number in (LAST_VERSION, 500, 10**9):
        policies.want(pointer_of(real).model_copy(update={"version": number, "key": policy_key(number)}))
        asyncio.run(policies.load_wanted())
    asyncio.run(policies.look(None))
    asyncio.run(policies.load_wanted())
    assert policies.version == 1
    assert sum("was announced and is not there" in record.message for record in caplog.records) == 1


def test_a_pointer_to_another_object_is_no_message():
    pointer = {"version": 3, "key": "episodes/robot-1/e.arrow", "sha256": "0" * 64, "update": 0, "snapshot": 0}
    with pytest.raises(ValueError, match="policy 3 is stored under"):
        PolicyPointer.model_validate(pointer | {"published_at_s": 1.0})


def loaded(store, *gains: float) -> PolicyFollower:
    """A follower that has loaded versions 0, 1, ... one after the other; each worked but the last."""
    publisher, policies = PolicyPublisher(store), follower(store)
    for number, gain in enumerate(gains):
        publisher.publish(point_mass.policy_bytes(gain), update=0, snapshot=0)
        asyncio.run(policies.look(None))
        assert asyncio.run(policies.load_wanted())
        if number < len(gains) - 1:
            policies.completed(number)
    return policies


def test_faults_in_a_row_bring_the_robots_back_to_the_last_version_that_worked(store):
    policies = loaded(store, 1.0, 2.0, 3.0)
    fault = PolicyFault("NaN")
    for _ in range(5):
        policies.failed(2, fault)  # one act of five robots
    policies.failed(2, PolicyFault("NaN"))
    policies.completed(2)  # not in a row
    policies.failed(2, PolicyFault("NaN"))
    policies.acted(2)  # an episode that fails later is no better
    policies.failed(2, PolicyFault("NaN"))
    assert policies.version == 2
    policies.failed(2, PolicyFault("KeyError"))
    assert (policies.version, policies.newest.policy.gain) == (1, 2.0)
    assert policies.complaint == "policy 2 is not used: 3 faults in a row, the last: KeyError; robots act with policy 1"
    # It stays so, until there is a newer one.
    asyncio.run(policies.look(None))
    assert not asyncio.run(policies.load_wanted())
    PolicyPublisher(store).publish(point_mass.policy_bytes(4.0), update=0, snapshot=0)
    asyncio.run(policies.look(None))
    assert asyncio.run(policies.load_wanted())
    assert (policies.version, policies.complaint, policies.unused) == (3, "", 1)


def test_without_a_version_in_memory_an_older_one_is_loaded(store):
    publisher = PolicyPublisher(store)
    for gain in (1.0, 2.0):
        publisher.publish(point_mass.policy_bytes(gain), update=0, snapshot=0)
    policies = follower(store)
    asyncio.run(policies.look(None))
    assert asyncio.run(policies.load_wanted())
    for _ in range(3):
        policies.failed(1, PolicyFault("NaN"))
    assert policies.newest is None
    assert policies.complaint.endswith("robots wait for another one")
    asyncio.run(policies.look(None))
    assert asyncio.run(policies.load_wanted())
    assert policies.version == 0


def test_a_broken_robot_uses_up_no_policy(store):
    policies = loaded(store, 1.0, 2.0)
    for _ in range(3):
        policies.failed(1, RobotFault("arm 3 does not answer"))
    # The new version may be why: the one before has worked.
    assert policies.version == 0
    for _ in range(9):
        policies.failed(0, RobotFault("arm 3 does not answer"))
    assert policies.version == 0


def test_a_file_larger_than_the_host_loads_is_not_downloaded(store):
    PolicyPublisher(store).publish(point_mass.policy_bytes(1.0), update=0, snapshot=0)
    policies = PolicyFollower(store, point_mass.load_policy, max_loaded=3, max_bytes=10)
    asyncio.run(policies.look(None))
    assert not asyncio.run(policies.load_wanted())
    assert "more than the 10 that this host loads" in policies.complaint


class Refuses:
    """A trial that not every version passes."""

    def try_policy(self, data: bytes) -> None:
        if point_mass.load_policy(data).gain > 5:
            raise CheckpointError("it shakes")

    def close(self) -> None:
        pass


def test_a_version_that_fails_its_trial_is_never_loaded(store):
    publisher = PolicyPublisher(store)
    policies = PolicyFollower(store, point_mass.load_policy, max_loaded=3, trial=Refuses())
    for gain, used in ((1.0, True), (6.0, False), (2.0, True)):
        publisher.publish(point_mass.policy_bytes(gain), update=0, snapshot=0)
        asyncio.run(policies.look(None))
        assert asyncio.run(policies.load_wanted()) is used
    assert policies.version == 2
