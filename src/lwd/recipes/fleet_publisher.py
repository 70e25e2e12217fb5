"""Publishing to the fleet: under the learner's lease, recognised after a lost answer, announced on the bus."""

from collections.abc import Callable

from lwd.data.learner_lease import LearnerLease
from lwd.data.policies import PolicyPublisher, StateReference
from lwd.data.store import ObjectStore
from lwd.errors import LeaseTaken, ObjectExists
from lwd.fleet.learner_link import LearnerLink


class FleetPublisher:
    """What the online stage calls to publish; again with the same policy after a StoreError."""

    def __init__(
        self,
        store: ObjectStore,
        lease: LearnerLease,
        state: Callable[[], StateReference | None],
        link: LearnerLink | None,
        *,
        at_least: int = -1,
    ) -> None:
        """
        Args:
            state: the checkpoint from which training can be repeated.
            link: announces what is published; None: robots find it in the store.
            at_least: the version that the learner's checkpoint knows; no number is used twice.
        """
        self._lease, self._state, self._link = lease, state, link
        self._publisher = PolicyPublisher(store, at_least=at_least)

    def __call__(self, data: bytes, update: int, snapshot: int) -> int:
        """Return the version under which the policy is published.

        Raises:
            LeaseTaken: if another learner publishes to the store.
            StoreError: if the store fails; the policy may be published all the same.
        """
        self._lease.require_held()
        newest = self._publisher.newest
        try:
            manifest = self._publisher.publish(
                data,
                update=update,
                snapshot=snapshot,
                parents=() if newest < 0 else (newest,),
                algorithm_state=self._state(),
            )
        except ObjectExists as error:
            raise LeaseTaken(str(error)) from error
        if self._link is not None:
            self._link.announce_policy(manifest)
        return manifest.version
