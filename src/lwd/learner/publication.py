"""Publishing from a training loop: at most one policy waits, and it is tried again with the same bytes."""

from collections.abc import Callable

from lwd.data.outage import Outage
from lwd.errors import StoreError
from lwd.learner.checkpoint import Progress

Publish = Callable[[bytes, int, int], int]
"""(policy bytes, update, snapshot) -> version of the published policy. Called again with the same arguments after a
StoreError, it must recognise what it may have published."""


class Publication:
    """A try blocks training for as long as the store's client waits; the rests between tries grow, to a minute."""

    def __init__(self, policy: Callable[[], bytes], publish: Publish, *, most_s: float) -> None:
        """
        Args:
            policy: makes the bytes of the present policy.
            most_s: how long publishing may fail.
        """
        self._policy, self._publish = policy, publish
        self.outage = Outage("a policy cannot be published", "training goes on", most_s=most_s)
        self.update = -1
        """Of the policy that was published last."""
        self._unsent: tuple[bytes, int, int] | None = None
        self._owed = False

    @property
    def waiting(self) -> bool:
        """Whether something is to be published."""
        return self._owed or self._unsent is not None

    def step(self, progress: Progress, *, due: bool) -> int | None:
        """Publish what waits, unless the rest after a failure is not over. Returns the version that was published.

        Args:
            due: the policy as of `progress` is to be published. While an earlier one waits, its fate is unknown: it
                goes first, and the newest one after it.
        Raises:
            LeaseTaken: if another learner publishes to the store.
        """
        self._owed |= due and (self._unsent is None or self._unsent[1] != progress.update)
        if not self.waiting or not self.outage.due:
            return None
        if self._unsent is None:
            self._unsent, self._owed = (self._policy(), progress.update, progress.snapshot), False
        try:
            version = self._publish(*self._unsent)
        except StoreError as error:
            self.outage.failed(error)
            return None
        self.outage.succeeded()
        self.update, self._unsent = self._unsent[1], None
        return version
