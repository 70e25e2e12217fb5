"""Published policies: numbers that follow from the store and the checkpoint, and everything foreign left alone."""

import json

import pytest

from lwd.data.policies import (
    LAST_VERSION,
    PolicyManifest,
    PolicyPublisher,
    fetch_policy,
    manifest_key,
    newest_policy,
    policy_key,
    published_policies,
    read_manifest,
)
from lwd.data.retention import RetentionRules, apply_retention
from lwd.data.store import DirectoryStore
from lwd.errors import ManifestDamaged, ObjectExists, PolicyAltered, StoreError
from lwd.evaluation.run_data import _read_policies

AT_ONCE = RetentionRules(keep_policies=1, policy_days=0)


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


def manifest(version: int, **changes) -> bytes:
    fields = {
        "version": version, "key": policy_key(version), "sha256": "0" * 64, "bytes": 1, "update": 0, "snapshot": 0,
        "published_at_s": 1.0,
    }  # fmt: skip
    return json.dumps(fields | changes).encode()


@pytest.mark.parametrize(
    "key",
    ["README.md", ".DS_Store", "x.json", "latest.json", "3.json", "0000000000007.json", "000000000009.txt",
     "old/000000000009.json", "999999999999.json", "-00000000001.json", "00000000000٣.json"],
)  # fmt: skip
def test_a_foreign_file_among_the_policies_is_ignored_with_one_warning(store, tmp_path, caplog, monkeypatch, key):
    monkeypatch.setattr("lwd.data.policies._named", set())
    publisher = PolicyPublisher(store)
    publisher.publish(b"zero", update=0, snapshot=0)
    (tmp_path / "policies" / key).parent.mkdir(exist_ok=True)
    (tmp_path / "policies" / key).write_bytes(b"not ours")
    for _ in range(3):
        assert newest_policy(store).version == 0
        assert [found.version for found in _read_policies(store)] == [0]
        assert PolicyPublisher(store).newest == 0
    apply_retention(store, AT_ONCE)
    assert PolicyPublisher(store).publish(b"one", update=1, snapshot=0).version == 1
    assert (tmp_path / "policies" / key).read_bytes() == b"not ours"
    said = [record for record in caplog.records if f"policies/{key} is no policy of ours" in record.message]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no policy manifest"),
        (b"{", "is no policy manifest"),
        (b"[" * 60_000, "is no policy manifest"),
        (b" " * 200_000, "more than 65536"),
        (manifest(3, key="episodes/robot-1/e.arrow"), "policy 3 is stored under 'policies/000000000003.safetensors'"),
        (manifest(3, key=policy_key(2)), "policy 3 is stored under"),
        (manifest(2), "is the manifest of policy 2"),
        (manifest(3, sha256="../x"), "sha256"),
        (manifest(3, bytes=0), "bytes"),
        (manifest(3, pickle="x"), "pickle: Extra inputs"),
    ],
)
def test_a_damaged_manifest_hides_no_earlier_policy(store, tmp_path, content, said):
    PolicyPublisher(store).publish(b"zero", update=0, snapshot=0)
    store.create(manifest_key(3), content)
    with pytest.raises(ManifestDamaged, match=said):
        read_manifest(store, manifest_key(3))
    assert newest_policy(store).version == 0
    apply_retention(store, AT_ONCE)
    assert PolicyPublisher(store).publish(b"next", update=1, snapshot=0).version == 4


def test_a_number_that_no_learner_gave_is_ignored(store):
    publisher = PolicyPublisher(store)
    for version in range(3):
        publisher.publish(b"weights %d" % version, update=version, snapshot=0)
    for leap in (2_000_000, LAST_VERSION):
        store.create(manifest_key(leap), manifest(leap))
    store.create(policy_key(LAST_VERSION - 1), b"weights without a manifest")
    assert newest_policy(store).version == 2
    assert newest_policy(store, after=2) is None
    assert [found.version for found in published_policies(store)] == [2, 1, 0]
    assert PolicyPublisher(store).publish(b"next", update=3, snapshot=0).version == 3
    apply_retention(store, AT_ONCE)
    assert newest_policy(store).version == 3


def test_a_store_that_lost_its_policies_gets_no_number_twice(store, tmp_path):
    for _ in range(2):
        assert PolicyPublisher(store, at_least=41).newest == 41
    assert PolicyPublisher(store, at_least=41).publish(b"next", update=1, snapshot=0).version == 42
    # The store is ahead of an old checkpoint.
    assert PolicyPublisher(store, at_least=7).publish(b"more", update=2, snapshot=0).version == 43


def test_a_version_without_weights_is_passed_by_for_lack_of_bytes_not_for_ever(store):
    store.create(manifest_key(0), manifest(0))
    with pytest.raises(StoreError, match="no object"):
        fetch_policy(store, newest_policy(store))


class LosesAnswers(DirectoryStore):
    """Stores, and then says that it could not: as many times as `lose` says, beginning with a key that ends so."""

    lose = 0
    ending = ""
    before = False

    def create(self, key, data):
        if self.lose and key.endswith(self.ending):
            self.lose -= 1
            if not self.before:
                super().create(key, data)
            raise StoreError("the answer was lost")
        return super().create(key, data)


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
@pytest.mark.parametrize("before", [True, False])
def test_publishing_again_after_a_lost_answer_is_the_same_version(tmp_path, ending, before):
    store = LosesAnswers(tmp_path)
    publisher = PolicyPublisher(store)
    publisher.publish(b"zero", update=0, snapshot=0)
    store.lose, store.ending, store.before = 2, ending, before
    for _ in range(2):
        with pytest.raises(StoreError, match="answer was lost"):
            publisher.publish(b"one", update=50, snapshot=1, parents=(0,))
    published = publisher.publish(b"one", update=50, snapshot=1, parents=(0,))
    assert published.version == 1
    assert read_manifest(store, manifest_key(1)) == published
    assert publisher.publish(b"two", update=100, snapshot=1).version == 2
    assert [found.version for found in published_policies(store)] == [2, 1, 0]


def test_other_bytes_after_a_lost_answer_get_a_number_of_their_own(tmp_path):
    store = LosesAnswers(tmp_path)
    publisher = PolicyPublisher(store)
    store.lose, store.ending = 1, ".json"
    with pytest.raises(StoreError, match="answer was lost"):
        publisher.publish(b"zero", update=0, snapshot=0)
    assert publisher.publish(b"one", update=50, snapshot=0).version == 1
    assert [fetch_policy(store, found) for found in published_policies(store)] == [b"one", b"zero"]


def test_another_learner_is_told_from_a_lost_answer(store):
    one, other = PolicyPublisher(store), PolicyPublisher(store)
    one.publish(b"mine", update=0, snapshot=0)
    for _ in range(2):
        with pytest.raises(ObjectExists, match="published by another learner"):
            other.publish(b"theirs", update=0, snapshot=0)


def test_more_bytes_than_the_manifest_says_are_not_downloaded(store, tmp_path):
    store.create(manifest_key(0), manifest(0, bytes=77))
    path = tmp_path / policy_key(0)
    with path.open("wb") as file:
        file.truncate(2_500_000_000)
    with pytest.raises(PolicyAltered, match="has 2500000000 bytes, more than 77"):
        fetch_policy(store, newest_policy(store))


def test_the_highest_numbers_are_refused():
    PolicyManifest.model_validate_json(manifest(LAST_VERSION))
    for version in (LAST_VERSION + 1, 10**12, 2**63):
        with pytest.raises(ValueError, match="less than or equal"):
            PolicyManifest.model_validate_json(manifest(version))
