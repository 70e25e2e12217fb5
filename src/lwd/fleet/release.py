"""How a policy reaches the robots: object and manifest in the store, a pointer on the bus.

The pointer is only a hint: what a version is says its manifest in the store, and a robot that missed every pointer
finds it there. A version that cannot be downloaded is tried again; one that cannot be loaded, fails its trial or fails
on the robots is not used on this host any more, and robots act with the newest one that works.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lwd.data.policies import (
    LARGEST_LEAP,
    MAX_POLICY_BYTES,
    PolicyManifest,
    fetch_policy,
    manifest_key,
    published_policies,
    read_manifest,
)
from lwd.data.store import ObjectStore
from lwd.errors import CheckpointError, PolicyAltered, PolicyFault, RobotFault, ServiceError, StoreError
from lwd.fleet.backoff import Backoff
from lwd.fleet.bus import Bus
from lwd.fleet.messages import PolicyPointer
from lwd.fleet.policy_faults import MAX_FAULTS, VersionRecord

if TYPE_CHECKING:
    # Only for types: the network side of a host carries bytes and needs no torch, which takes a second to import.
    from lwd.fleet.policy_trial import Trial
    from lwd.models.protocol import Policy

PolicyLoader: TypeAlias = "Callable[[bytes], Policy]"
"""Makes a policy that can act from its safetensors bytes, such as `lwd.models.checkpoint.load_policy`."""
_MOST_REMEMBERED = 1000
"""Versions that are not used, and versions whose download failed."""
_DEAF_S = 5.0
"""For how long pointers are not followed after one that led nowhere; the store is looked at as often."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """A policy in memory."""

    version: int
    policy: "Policy"
    sha256: str = ""
    """Of its file."""


@dataclass(kw_only=True)
class _Postponed:
    """A version that could not be had."""

    backoff: Backoff
    until_s: float = 0.0
    altered: bool = False
    """Whether its bytes were others than its manifest names."""


def pointer_of(manifest: PolicyManifest) -> PolicyPointer:
    """Return the pointer that announces a published policy."""
    return PolicyPointer(
        version=manifest.version,
        key=manifest.key,
        sha256=manifest.sha256,
        update=manifest.update,
        snapshot=manifest.snapshot,
        published_at_s=manifest.published_at_s,
    )


class PolicyFollower:
    """Holds the newest policy that this host can use. Downloads, trials and loading run in a worker thread.

    `acted`, `completed`, `failed` and `in_use` are the robots' thread's.
    """

    def __init__(
        self,
        store: ObjectStore,
        load: PolicyLoader,
        *,
        max_loaded: int,
        max_bytes: int = MAX_POLICY_BYTES,
        trial: "Trial | None" = None,
    ) -> None:
        """
        Args:
            max_loaded: versions in memory at a time, besides one that worked and is kept to go back to; while robots
                still act with so many, newer ones wait.
            max_bytes: of a policy file; a larger one is not downloaded.
            trial: tries a version before it is loaded; None: it is only loaded.
        """
        self._store = store
        self._load = load
        self._max_loaded, self._max_bytes = max_loaded, max_bytes
        self._trial = trial
        self._lock = threading.Lock()
        """Around what both the network's and the robots' thread change."""
        self._unused: dict[int, str] = {}
        """Version -> hash of what robots of this host never act with any more."""
        self._postponed: dict[int, _Postponed] = {}
        self._records: dict[int, VersionRecord] = {}
        self._hint: PolicyPointer | None = None
        self._deaf_until_s = 0.0
        self._wanted: PolicyManifest | None = None
        self._fallback: LoadedPolicy | None = None
        """The last one before the newest that worked."""
        self._complaint: tuple[int, str] = (-1, "")
        self.newest: LoadedPolicy | None = None
        """Replaced as a whole, so another thread may read it at any time."""
        self.in_use: frozenset[int] = frozenset()
        """Versions that robots act with."""

    @property
    def version(self) -> int:
        """The newest version that robots may begin an episode with, -1 without one."""
        newest = self.newest
        return -1 if newest is None else newest.version

    @property
    def complaint(self) -> str:
        """Why a newer version than the present one is not used; empty while the newest one is."""
        return self._complaint[1]

    @property
    def unused(self) -> int:
        """How many versions are not used for what was wrong with them."""
        return len(self._unused)

    def want(self, pointer: PolicyPointer) -> None:
        """Note a version that was announced."""
        if time.monotonic() < self._deaf_until_s or pointer.version <= self.version:
            return
        if pointer.version not in self._left_out() and (self._hint is None or pointer.version > self._hint.version):
            self._hint = pointer

    async def look(self, bus: Bus | None) -> None:
        """Look for a newer version than the announced ones: in the KV, and in the store.

        Raises:
            StoreError: if the store cannot be read.
        """
        if bus is not None:
            try:
                if (pointer := await bus.get_policy_pointer()) is not None:
                    self.want(pointer)
            except ServiceError as error:
                _logger.info("%s; looking in the store", error)
        self._wanted = await asyncio.to_thread(self._newest_usable)

    async def load_wanted(self) -> bool:
        """Load the wanted version if it is newer and memory allows. Returns whether it did.

        Whatever is wrong with it is logged, and told by `complaint`: robots go on with the policy they have.
        """
        await self._follow_hint()
        wanted = self._wanted
        if wanted is None or wanted.version <= self.version or wanted.version in self._left_out():
            return False
        if len(self.in_use | {wanted.version}) > self._max_loaded:
            return False
        try:
            policy = await asyncio.to_thread(self._made, wanted)
        except (StoreError, ServiceError) as error:
            self._postpone(wanted, error)
            return False
        except CheckpointError as error:
            self._wanted = None
            with self._lock:
                self._refuse(wanted.version, wanted.sha256, str(error))
            return False
        self._take(LoadedPolicy(version=wanted.version, policy=policy, sha256=wanted.sha256))
        return True

    def acted(self, version: int) -> None:
        """Note that a version gave chunks that robots could execute."""
        with self._lock:
            self._record(version).acted()

    def completed(self, version: int) -> None:
        """Note that an episode with a version ended by itself."""
        with self._lock:
            self._record(version).completed()

    def failed(self, version: int, error: RobotFault) -> None:
        """Note a fault of robots that act with a version; after some in a row they go back to one that worked.

        A fault that is not the policy's own counts only against a version that has not worked yet, and only while
        there is another one: with the last one that worked it is the robot that is broken.
        """
        with self._lock:
            record = self._record(version)
            is_newest = self.newest is not None and self.newest.version == version
            if not isinstance(error, PolicyFault) and (record.worked or self._fallback is None or not is_newest):
                return
            if not record.failed(error) or version in self._unused:
                return
            loaded = [found for found in (self.newest, self._fallback) if found is not None]
            sha256 = next((found.sha256 for found in loaded if found.version == version), "")
            if is_newest:
                self.newest, self._fallback = self._fallback, None
            elif self._fallback is not None and self._fallback.version == version:
                self._fallback = None
            back = "wait for another one" if self.newest is None else f"act with policy {self.newest.version}"
            self._refuse(version, sha256, f"{MAX_FAULTS} faults in a row, the last: {error}; robots {back}")

    def _record(self, version: int) -> VersionRecord:
        return self._records.setdefault(version, VersionRecord())

    def _left_out(self) -> set[int]:
        """Versions that are not even looked at now."""
        now_s = time.monotonic()
        with self._lock:
            return {*self._unused, *(version for version, found in self._postponed.items() if now_s < found.until_s)}

    def _newest_usable(self) -> PolicyManifest | None:
        for manifest in published_policies(self._store, self.version, without=self._left_out()):
            with self._lock:
                if manifest.sha256 not in self._unused.values():
                    return manifest
                # The same bytes under another number are no better.
                self._refuse(manifest.version, manifest.sha256, "an earlier version had the same bytes")
        return None

    async def _follow_hint(self) -> None:
        """Find out what an announced version is."""
        hint, self._hint = self._hint, None
        known = max(self.version, -1 if self._wanted is None else self._wanted.version)
        if hint is None or hint.version <= known:
            return
        try:
            if known >= 0 and hint.version - known > LARGEST_LEAP:
                raise StoreError(f"policy {known} is the newest known")
            self._wanted = await asyncio.to_thread(read_manifest, self._store, manifest_key(hint.version))
        except StoreError as error:
            self._deaf_until_s = time.monotonic() + _DEAF_S
            _logger.warning("policy %d was announced and is not there (%s); looking in the store", hint.version, error)

    def _made(self, manifest: PolicyManifest) -> "Policy":
        """Download, try and load a version.

        Raises:
            StoreError: if something cannot be downloaded.
            ServiceError: if it cannot be tried now.
            CheckpointError: if it must not be used.
        """
        if manifest.bytes > self._max_bytes:
            raise CheckpointError(
                f"it has {manifest.bytes} bytes, more than the {self._max_bytes} that this host loads"
            )
        data = fetch_policy(self._store, manifest)
        try:
            if self._trial is not None:
                self._trial.try_policy(data)
            return self._load(data)
        except (StoreError, ServiceError, CheckpointError):
            raise
        except BaseException as error:
            # safetensors' panics are no Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CheckpointError(f"{type(error).__name__}: {str(error)[:500]}") from error

    def _take(self, loaded: LoadedPolicy) -> None:
        with self._lock:
            if self.newest is not None and self._record(self.newest.version).worked:
                self._fallback = self.newest
            self.newest = loaded
            kept = {loaded.version, *self.in_use, *([] if self._fallback is None else [self._fallback.version])}
            self._records = {version: record for version, record in self._records.items() if version in kept}
            self._postponed = {version: found for version, found in self._postponed.items() if version > loaded.version}
            if self._complaint[0] <= loaded.version:
                self._complaint = (-1, "")

    def _postpone(self, manifest: PolicyManifest, error: Exception) -> None:
        """Try a version again later; one whose bytes were wrong twice, with a look past caches between, is not used."""
        self._wanted = None
        with self._lock:
            found = self._postponed.setdefault(manifest.version, _Postponed(backoff=Backoff()))
            _forget_oldest(self._postponed)
            if isinstance(error, PolicyAltered):
                if found.altered:
                    self._refuse(manifest.version, manifest.sha256, str(error))
                    return
                found.altered = True
            rest_s = found.backoff.failed()
            found.until_s = time.monotonic() + rest_s
            self._complaint = (manifest.version, f"policy {manifest.version} is not used yet: {error}")
        _logger.warning("%s; next try in %.1f s or more", self._complaint[1], rest_s)

    def _refuse(self, version: int, sha256: str, reason: str) -> None:
        """Never use a version again, and say so once."""
        if version in self._unused:
            return
        self._unused[version] = sha256
        _forget_oldest(self._unused)
        self._complaint = (version, f"policy {version} is not used: {reason}")
        _logger.error("%s", self._complaint[1])


def _forget_oldest(remembered: dict[int, str] | dict[int, _Postponed]) -> None:
    while len(remembered) > _MOST_REMEMBERED:
        del remembered[next(iter(remembered))]
