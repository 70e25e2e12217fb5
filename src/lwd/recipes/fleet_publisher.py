"""Publishing to the fleet: under the learner's lease, recognised after a lost answer, announced on the bus."""

import hashlib
from collections.abc import Callable

from lwd.data.learner_lease import LearnerLease
from lwd.data.policies import PolicyManifest, PolicyPublisher, StateReference, manifest_key, read_manifest
from lwd.data.store import ObjectStore
from lwd.errors import LeaseTaken, ObjectExists, ObjectMissing, StoreError
from lwd.fleet.learner_link import LearnerLink


class FleetPublisher:
    """What the online stage calls to publish; again with the same policy after a StoreError."""

    def __init__(
        self,
        store: ObjectStore,
        lease: LearnerLease,
        state: Callable[[], StateReference | None],
        link: LearnerLink | None,
    ) -> None:
        """
        Args:
            state: the checkpoint from which training can be repeated.
            link: announces what is published; None: robots find it in the store.
        """
        self._store, self._lease, self._state, self._link = store, lease, state, link
        self._publisher = PolicyPublisher(store)
        self._tried: tuple[int, int, str] | None = None
        """(version, update, hash) of a try whose answer was an error: it may have succeeded."""

    def __call__(self, data: bytes, update: int, snapshot: int) -> int:
        """Return the version under which the policy is published.

        Raises:
            LeaseTaken: if another learner publishes to the store.
            StoreError: if the store fails; the policy may be published all the same.
        """
        self._lease.require_held()
        version, sha256 = self._publisher.newest + 1, hashlib.sha256(data).hexdigest()
        manifest = self._found(version, update, sha256) or self._new(data, version, update, snapshot, sha256)
        self._tried = None
        if self._link is not None:
            self._link.announce_policy(manifest)
        return manifest.version

    def _new(self, data: bytes, version: int, update: int, snapshot: int, sha256: str) -> PolicyManifest:
        newest = self._publisher.newest
        try:
            return self._publisher.publish(
                data,
                update=update,
                snapshot=snapshot,
                parents=() if newest < 0 else (newest,),
                algorithm_state=self._state(),
            )
        except StoreError as error:
            if isinstance(error, ObjectExists) or isinstance(error.__cause__, ObjectExists):
                raise LeaseTaken(str(error)) from error
            self._tried = (version, update, sha256)
            raise

    def _found(self, version: int, update: int, sha256: str) -> PolicyManifest | None:
        """Return the manifest of an earlier try whose answer was lost; None if there is none."""
        if self._tried != (version, update, sha256):
            return None
        try:
            manifest = read_manifest(self._store, manifest_key(version))
        except ObjectMissing:
            return None
        if (manifest.update, manifest.sha256) != (update, sha256):
            return None
        self._publisher = PolicyPublisher(self._store)
        return manifest
