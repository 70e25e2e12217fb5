"""Ctrl-C and SIGTERM as a wish that is looked at between two updates, so that nothing is cut in the middle."""

import signal
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager; `stop` becomes True on SIGINT or SIGTERM. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.stop = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = True
