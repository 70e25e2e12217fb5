"""How a policy reaches the robots: object and manifest in the store, a pointer on the bus.

The pointer is only a hint. Robots verify the hash of what they download, and a robot that missed every
pointer finds the newest manifest in the store.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lwd.data.policies import PolicyManifest, fetch_policy, newest_policy
from lwd.data.store import ObjectStore
from lwd.errors import CheckpointError, ServiceError, StoreError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import PolicyPointer
from lwd.types import PolicyVersion

if TYPE_CHECKING:
    # Only for types: the network side of a host carries bytes and needs no torch, which takes a second to import.
    from lwd.models.protocol import Policy

PolicyLoader: TypeAlias = "Callable[[bytes], Policy]"
"""Makes a policy that can act from its safetensors bytes, such as `lwd.models.checkpoint.load_policy`."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """A policy in memory."""

    version: int
    policy: "Policy"


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
    """Holds the newest policy that this host could load. Loading runs in a worker thread."""

    def __init__(self, store: ObjectStore, load: PolicyLoader, *, max_loaded: int) -> None:
        """
        Args:
            max_loaded: versions in memory at a time; while robots still act with so many, newer ones wait.
        """
        self._store = store
        self._load = load
        self._max_loaded = max_loaded
        self._broken: set[str] = set()
        """Hashes of what could not be loaded."""
        self._wanted: PolicyVersion | None = None
        self.newest: LoadedPolicy | None = None
        """Replaced as a whole, so another thread may read it at any time."""
        self.in_use: frozenset[int] = frozenset()
        """Versions that robots act with; the robots' thread replaces it."""

    @property
    def version(self) -> int:
        """The newest loaded version, -1 without one."""
        return -1 if self.newest is None else self.newest.version

    def want(self, pointer: PolicyPointer) -> None:
        """Note a version that was announced; older ones than known are ignored."""
        if pointer.sha256 in self._broken:
            return
        if self._wanted is None or pointer.version > self._wanted.version:
            self._wanted = pointer.policy_version

    async def look(self, bus: Bus | None) -> None:
        """Look for a newer version than the announced ones: in the KV, and in the store where that fails."""
        if bus is not None:
            try:
                if (pointer := await bus.get_policy_pointer()) is not None:
                    self.want(pointer)
            except ServiceError as error:
                _logger.info("%s; looking in the store", error)
        known = max(self.version, -1 if self._wanted is None else self._wanted.version)
        manifest = await asyncio.to_thread(newest_policy, self._store, known)
        if manifest is not None:
            self.want(pointer_of(manifest))

    async def load_wanted(self) -> bool:
        """Load the wanted version if it is newer and memory allows. Returns whether it did.

        What cannot be loaded is skipped for good: robots go on with the policy they have.
        """
        wanted = self._wanted
        if wanted is None or wanted.version <= self.version:
            return False
        if len(self.in_use | {wanted.version}) > self._max_loaded:
            return False
        try:
            data = await asyncio.to_thread(fetch_policy, self._store, wanted)
            policy = await asyncio.to_thread(self._load, data)
        except (StoreError, CheckpointError) as error:
            _logger.error("policy %d is not used: %s", wanted.version, error)
            # The pointer may have been wrong, not the policy: the next look finds what the store really has.
            self._broken.add(wanted.sha256)
            self._wanted = None
            return False
        self.newest = LoadedPolicy(version=wanted.version, policy=policy)
        return True
