"""Published policies in the object store: one create-only safetensors object and one manifest per version.

A version's keys follow from its number. Whatever else lies in `policies/` is foreign: named once in the log, and left
alone.
"""

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Container, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lwd.data import durable
from lwd.data.store import ObjectStore, StoredObject
from lwd.errors import ManifestDamaged, ObjectExists, ObjectMissing, ObjectTooLarge, PolicyAltered, StoreError

POLICY_PREFIX = "policies"
LAST_VERSION = 10**12 - 2
"""Twelve digits, so that keys sort as versions do; one is left, so that the next number has twelve, too."""
LARGEST_LEAP = 1_000_000
"""Versions between one in the store and the next one, at most: no learner of the run numbered what lies beyond."""
MAX_POLICY_BYTES = 16 * 2**30
"""The largest policy that LWD trains, pi0.5 with 3.6 billion weights in float32, has 13.5 GiB."""
_MAX_MANIFEST_BYTES = 64 * 2**10
_BASE_PREFIX = "policy-bases"
_KEY = re.compile(rf"{POLICY_PREFIX}/([0-9]{{12}})\.(json|safetensors)")
_MOST_NAMED = 1000

_logger = logging.getLogger(__name__)
_named: set[str] = set()
"""What was said of foreign and damaged objects: once each, however often the store is listed."""


class StateReference(BaseModel):
    """A checkpoint of the learner's whole state. It lies on the learner's disk, not in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    update: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the checkpoint's `state.safetensors`."""


class PolicyManifest(BaseModel):
    """Where a policy came from and what its bytes are. A version without a manifest was never published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=0, le=LAST_VERSION)
    key: str
    """`policy_key(version)`, nothing else."""
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

    @model_validator(mode="after")
    def _own_key(self) -> Self:
        require_policy_key(self.version, self.key)
        return self


class PolicyPublisher:
    """Gives each published policy the next version. One publisher at a time; a second one is detected."""

    def __init__(self, store: ObjectStore, *, at_least: int = -1) -> None:
        """Find the newest version in the store.

        Args:
            at_least: a version that was published before, as the learner's checkpoint knows; the next one is beyond it
                even where the store has lost it.
        Raises:
            StoreError: if the store cannot be read.
        """
        self._store = store
        self._newest = max([at_least, *policy_objects(store)])
        self._pending: PolicyManifest | None = None

    @property
    def newest(self) -> int:
        """The newest version that is known: of the store when this publisher began, or last published; else -1."""
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

        After a StoreError the same bytes may be published again: under the same version and manifest, so that what an
        answer was lost of is found to be there.

        Args:
            data: a safetensors file that `load_policy` reads.
            algorithm_state: the checkpoint that training can be repeated from.
        Raises:
            ObjectExists: if another publisher took the version; trying again does not help.
            StoreError: if the store cannot be written.
        """
        manifest = self._continued(hashlib.sha256(data).hexdigest(), update)
        if manifest is None:
            version = self._newest + 1
            manifest = PolicyManifest(
                version=version,
                key=policy_key(version),
                sha256=hashlib.sha256(data).hexdigest(),
                bytes=len(data),
                update=update,
                snapshot=snapshot,
                parents=parents,
                published_at_s=time.time(),
                algorithm_state=algorithm_state,
            )
            self._pending = manifest
        try:
            self._store.create(manifest.key, data)
            self._store.create(manifest_key(manifest.version), manifest.model_dump_json().encode())
        except ObjectExists as error:
            raise ObjectExists(
                f"policy version {manifest.version} was published by another learner: stop one of them"
            ) from error
        self._newest, self._pending = manifest.version, None
        return manifest

    def _continued(self, sha256: str, update: int) -> PolicyManifest | None:
        """The manifest of these bytes, of which the last try failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        if (pending.sha256, pending.update) == (sha256, update):
            self._pending = pending
            return pending
        # Other bytes: the last try may have stored its own, so its number is used.
        self._newest = pending.version
        return None


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
    if (copy := local_base(sha256, directory)) is not None:
        return copy
    data = store.get(_base_key(sha256), max_bytes=MAX_POLICY_BYTES)
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise StoreError(f"{_base_key(sha256)} has SHA-256 {found}: remove it, and start the learner again")
    durable.replace(_copy_of(sha256, directory), data)
    return data


def local_base(sha256: str, directory: Path) -> bytes | None:
    """Return the copy that `fetch_base` keeps, None where there is no intact one."""
    copy = _copy_of(sha256, directory)
    if copy.exists() and hashlib.sha256(data := copy.read_bytes()).hexdigest() == sha256:
        return data
    return None


def _copy_of(sha256: str, directory: Path) -> Path:
    return directory / f"{sha256}.safetensors"


def _base_key(sha256: str) -> str:
    return f"{_BASE_PREFIX}/{sha256}.safetensors"


def policy_key(version: int) -> str:
    """Return the key of a version's safetensors object."""
    return f"{POLICY_PREFIX}/{version:012d}.safetensors"


def manifest_key(version: int) -> str:
    """Return the key of a version's manifest."""
    return f"{POLICY_PREFIX}/{version:012d}.json"


def require_policy_key(version: int, key: str) -> None:
    """Check that a key is that of a version's weights, for pydantic.

    Raises:
        ValueError: if it is another one: no policy may point to other objects of the store.
    """
    if key != (own := policy_key(version)):
        raise ValueError(f"key is {key!r}; policy {version} is stored under {own!r}")


def policy_objects(store: ObjectStore) -> dict[int, dict[str, StoredObject]]:
    """Return what is stored of each version, in their order: "json" -> manifest, "safetensors" -> weights.

    Foreign objects are left out, with a warning: other names, and numbers that no learner gave (`LARGEST_LEAP`).

    Raises:
        StoreError: if the store cannot be listed.
    """
    found: dict[int, dict[str, StoredObject]] = {}
    for item in store.list(POLICY_PREFIX):
        match = _KEY.fullmatch(item.key)
        if match is None or int(match[1]) > LAST_VERSION:
            _say_once(f"{item.key} is no policy of ours and is ignored: remove it from {POLICY_PREFIX}/")
            continue
        found.setdefault(int(match[1]), {})[match[2]] = item
    versions = sorted(found)
    for index, (before, version) in enumerate(pairwise(versions), start=1):
        if version - before > LARGEST_LEAP:
            for beyond in versions[index:]:
                _say_once(
                    f"policy {beyond} in the store is ignored: {before} comes before it, and no learner leaves out "
                    f"more than {LARGEST_LEAP} versions; remove {manifest_key(beyond)} and its weights"
                )
            versions = versions[:index]
            break
    return {version: found[version] for version in versions}


def published_policies(store: ObjectStore, after: int = -1, without: Container[int] = ()) -> Iterator[PolicyManifest]:
    """Yield the manifests of published versions beyond `after`, newest first; damaged ones are left out.

    Args:
        without: versions whose manifests are not even read.
    Raises:
        StoreError: if the store cannot be read.
    """
    numbers = [version for version, parts in policy_objects(store).items() if "json" in parts]
    yield from _readable(store, (number for number in reversed(numbers) if number > after and number not in without))


def _readable(store: ObjectStore, versions: Iterable[int]) -> Iterator[PolicyManifest]:
    for version in versions:
        try:
            yield read_manifest(store, manifest_key(version))
        except ManifestDamaged as error:
            _say_once(str(error))
        except ObjectMissing:
            continue  # retention is running


def newest_policy(store: ObjectStore, after: int = -1) -> PolicyManifest | None:
    """Return the manifest of the newest published version beyond `after`, None if there is none.

    Raises:
        StoreError: if the store cannot be read.
    """
    return next(published_policies(store, after), None)


def read_manifest(store: ObjectStore, key: str) -> PolicyManifest:
    """Read a manifest.

    Raises:
        ObjectMissing: if there is none.
        ManifestDamaged: if it is no manifest, or that of another version than its key says.
        StoreError: if the store cannot be read.
    """
    try:
        manifest = PolicyManifest.model_validate_json(store.get(key, max_bytes=_MAX_MANIFEST_BYTES))
    except ObjectTooLarge as error:
        raise ManifestDamaged(f"{key} is no policy manifest: {error}; publish a new version") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise ManifestDamaged(f"{key} is no policy manifest: {field}: {first['msg']}; publish a new version") from error
    if manifest_key(manifest.version) != key:
        raise ManifestDamaged(f"{key} is the manifest of policy {manifest.version}: remove it")
    return manifest


def fetch_policy(store: ObjectStore, manifest: PolicyManifest) -> bytes:
    """Download a policy and verify size and hash; more bytes than the manifest says are not downloaded.

    Raises:
        PolicyAltered: if its bytes are not the ones that were published.
        StoreError: if it is missing, or the store cannot be read.
    """
    try:
        data = store.get(manifest.key, max_bytes=manifest.bytes)
    except ObjectTooLarge as error:
        raise PolicyAltered(f"{error}, as its manifest says: publish a new version") from error
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.sha256:
        raise PolicyAltered(
            f"{manifest.key} has SHA-256 {found}, published was {manifest.sha256}: publish a new version"
        )
    return data


def _say_once(words: str) -> None:
    if words not in _named and len(_named) < _MOST_NAMED:
        _named.add(words)
        _logger.warning("%s", words)
