"""Published policies in the object store: one create-only safetensors object and one manifest per version."""

import contextlib
import hashlib
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data import durable
from lwd.data.store import ObjectStore
from lwd.errors import ObjectExists, StoreError
from lwd.types import PolicyVersion

POLICY_PREFIX = "policies"
_BASE_PREFIX = "policy-bases"


class StateReference(BaseModel):
    """A checkpoint of the learner's whole state. It lies on the learner's disk, not in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    update: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the checkpoint's `state.safetensors`."""


class PolicyManifest(BaseModel):
    """Where a policy came from and what its bytes are. A version without a manifest was never published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=0)
    key: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    update: int = Field(ge=0)
    """Learner updates done when it was published."""
    snapshot: int = Field(ge=0)
    """Replay snapshot it was trained on."""
    parents: tuple[int, ...] = ()
    """Versions it was trained from; empty for the first one."""
    published_at_s: float
    algorithm_state: StateReference | None = None
    """The learner's newest checkpoint at that time, None before its first one. A policy is published more often than a
    checkpoint is saved: from this state the updates up to `update` are repeated on the journal's snapshots, and lead to
    this policy again."""
    signature: str | None = None
    """Reserved: nobody signs or checks it yet, and it may be there already without a robot refusing the manifest."""

    @property
    def policy_version(self) -> PolicyVersion:
        return PolicyVersion(
            version=self.version, key=self.key, sha256=self.sha256, update=self.update, snapshot=self.snapshot
        )


class PolicyPublisher:
    """Gives each published policy the next version. One publisher at a time; a second one is detected."""

    def __init__(self, store: ObjectStore) -> None:
        """Find the newest version in the store."""
        self._store = store
        numbers = [_version_of(item.key) for item in store.list(POLICY_PREFIX)]
        self._newest = max(numbers, default=-1)

    @property
    def newest(self) -> int:
        """The newest version in the store when this publisher began or last published; -1 without one."""
        return self._newest

    def publish(
        self,
        data: bytes,
        *,
        update: int,
        snapshot: int,
        parents: tuple[int, ...] = (),
        algorithm_state: StateReference | None = None,
    ) -> PolicyManifest:
        """Store a policy under the next version; on return every robot may load it.

        Args:
            data: a safetensors file that `load_policy` reads.
            algorithm_state: the checkpoint that training can be repeated from.
        Raises:
            StoreError: if another publisher took the version, or the store cannot be written.
        """
        version = self._newest + 1
        manifest = PolicyManifest(
            version=version,
            key=f"{POLICY_PREFIX}/{version:012d}.safetensors",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            update=update,
            snapshot=snapshot,
            parents=parents,
            published_at_s=time.time(),
            algorithm_state=algorithm_state,
        )
        try:
            self._store.create(manifest.key, data)
            self._store.create(manifest_key(version), manifest.model_dump_json().encode())
        except ObjectExists as error:
            raise StoreError(f"policy version {version} was published by another learner: stop one of them") from error
        self._newest = version
        return manifest


def put_base(store: ObjectStore, data: bytes) -> str:
    """Store what many policies have in common, such as a frozen backbone, under its hash; returns the hash.

    Raises:
        StoreError: if the store cannot be written.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    # Already there, it is the same: nothing to do.
    with contextlib.suppress(ObjectExists):
        store.create(_base_key(sha256), data)
    return sha256


def fetch_base(store: ObjectStore, sha256: str, directory: Path) -> bytes:
    """Return what `put_base` stored, from the directory's copy where there is one; it is downloaded once.

    Raises:
        StoreError: if it is missing, or its bytes are not the ones that were stored.
    """
    copy = directory / f"{sha256}.safetensors"
    if copy.exists() and hashlib.sha256(data := copy.read_bytes()).hexdigest() == sha256:
        return data
    data = store.get(_base_key(sha256))
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise StoreError(f"{_base_key(sha256)} has SHA-256 {found}: remove it, and start the learner again")
    durable.replace(copy, data)
    return data


def _base_key(sha256: str) -> str:
    return f"{_BASE_PREFIX}/{sha256}.safetensors"


def manifest_key(version: int) -> str:
    """Return the key of a version's manifest."""
    return f"{POLICY_PREFIX}/{version:012d}.json"


def newest_policy(store: ObjectStore, after: int = -1) -> PolicyManifest | None:
    """Return the manifest of the newest published version beyond `after`, None if there is none.

    Raises:
        StoreError: if the store cannot be read or the manifest is damaged.
    """
    listed = store.list(POLICY_PREFIX, start_after=manifest_key(after) if after >= 0 else "")
    keys = [item.key for item in listed if item.key.endswith(".json") and _version_of(item.key) > after]
    return read_manifest(store, keys[-1]) if keys else None


def read_manifest(store: ObjectStore, key: str) -> PolicyManifest:
    """Read a manifest.

    Raises:
        StoreError: if it is missing or damaged.
    """
    try:
        return PolicyManifest.model_validate_json(store.get(key))
    except ValidationError as error:
        raise StoreError(f"{key} is no policy manifest: {error.errors()[0]['msg']}; publish a new version") from error


def fetch_policy(store: ObjectStore, policy: PolicyManifest | PolicyVersion) -> bytes:
    """Download a policy and verify its hash.

    Raises:
        StoreError: if it is missing, or its bytes are not the ones that were published.
    """
    data = store.get(policy.key)
    found = hashlib.sha256(data).hexdigest()
    if found != policy.sha256:
        raise StoreError(f"{policy.key} has SHA-256 {found}, published was {policy.sha256}: publish a new version")
    return data


def _version_of(key: str) -> int:
    stem = key.rpartition("/")[2].partition(".")[0]
    try:
        return int(stem)
    except ValueError as error:
        raise StoreError(f"{key} is not ours: remove it from {POLICY_PREFIX}/") from error
