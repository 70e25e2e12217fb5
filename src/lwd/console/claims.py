"""Which host a robot belongs to: the first that says so, until it falls silent. A second one is a fault to be shown."""

from collections import OrderedDict
from collections.abc import Callable

_RIVALS = 4


class Claim:
    """One robot's."""

    def __init__(self, silent_s: float, clock: Callable[[], float]) -> None:
        """
        Args:
            silent_s: a host that did not claim the robot for so long has lost it.
        """
        self._silent_s, self._clock = silent_s, clock
        self.host_id = ""
        self._at_s = 0.0
        self._spoke = False
        self._rivals: OrderedDict[str, float] = OrderedDict()

    @property
    def is_silent(self) -> bool:
        return self._clock() - self._at_s > self._silent_s

    def take(self, host_id: str, *, speaks: bool) -> bool:
        """Note that a host claims the robot. Returns whether it is this host's.

        Args:
            speaks: whether the message came on the robot's own subject, on which only its host may publish; that
                counts more than a host's list of its robots.
        """
        now_s = self._clock()
        if self.host_id != host_id:
            if self.host_id and not self.is_silent and not (speaks and not self._spoke):
                self._note_rival(host_id, now_s)
                return False
            if self.host_id and not self.is_silent:
                self._note_rival(self.host_id, now_s)
            self.host_id, self._spoke = host_id, False
            self._rivals.pop(host_id, None)
        self._spoke = self._spoke or speaks
        self._at_s = now_s
        return True

    def release(self, host_id: str) -> None:
        """A host does not list the robot any more."""
        self._rivals.pop(host_id, None)

    @property
    def conflict(self) -> str:
        """Says that several hosts claim the robot; empty if one does."""
        now_s = self._clock()
        rivals = sorted(name for name, at_s in self._rivals.items() if now_s - at_s <= self._silent_s)
        if not rivals or not self.host_id:
            return ""
        return f"several hosts claim this robot: {', '.join([self.host_id, *rivals])}"

    def _note_rival(self, host_id: str, now_s: float) -> None:
        self._rivals[host_id] = now_s
        self._rivals.move_to_end(host_id)
        while len(self._rivals) > _RIVALS:
            self._rivals.popitem(last=False)
