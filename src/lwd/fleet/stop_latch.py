"""Whether the robots of this process are stopped: one latch that everybody who moves a robot asks first.

Set and released by the bus, by files in RUN/stop and by SIGUSR1 (`stop_link`, `stop_files`, `stop_signal`). Reading it
takes no lock: it can be asked right before every step, by any thread, whatever hangs elsewhere.
"""

import threading
import time
import uuid
from collections.abc import Callable

from lwd.fleet.stop_messages import StopOrder, StopState, words_of


class StopLatch:
    """Stopped while any stop is not released. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = StopState()
        self._reason = ""
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """Who stopped the robots, and why; empty while they may move."""
        return self._reason

    @property
    def state(self) -> StopState:
        return self._state

    @property
    def active(self) -> tuple[StopOrder, ...]:
        return self._state.active

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after every change, in the thread that brought it; it must not wait."""
        self._listeners.append(on_change)

    def merge(self, other: StopState) -> bool:
        """Take in what somebody else knows of stops. Returns whether that was news."""
        return self._become(lambda state: state.merged(other))

    def stop(self, by: str, reason: str = "") -> None:
        """Stop. Two presses of one person at the same time are one stop.

        Raises:
            ValidationError: if the name or the reason will not do.
        """
        order = StopOrder(stop_id=uuid.uuid4().hex, by=by, reason=reason, at_s=time.time())
        self._become(lambda state: state.order(order))

    def release(self, stop_ids: tuple[str, ...], by: str, reason: str = "") -> None:
        """Release the named stops, and no others.

        Raises:
            ValidationError: if an id, the name or the reason will not do.
        """
        self._become(lambda state: state.released(stop_ids, by, reason, time.time()))

    def _become(self, change: Callable[[StopState], StopState]) -> bool:
        with self._lock:
            state = change(self._state)
            if state == self._state:
                return False
            # The reason first: who sees a new state must not find the latch open.
            self._reason = words_of(state.active)
            self._state = state
        for listener in self._listeners:
            listener()
        return True
