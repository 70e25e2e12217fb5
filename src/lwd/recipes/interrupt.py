"""Ctrl-C and SIGTERM as a wish that is looked at between two updates, so that nothing is cut in the middle."""

import signal
import subprocess
from collections.abc import Sequence
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


def run_interruptibly(command: Sequence[str]) -> int:
    """Run a program and return its exit status; SIGINT and SIGTERM are passed on, and it ends in its own time.

    It gets a process group of its own: Ctrl-C at the terminal reaches it once, from here, and nobody kills it while
    it saves.

    Raises:
        KeyboardInterrupt: when it has ended after a signal.
    """
    passed_on: list[int] = []
    with subprocess.Popen(command, process_group=0) as child:

        def pass_on(number: int, frame: FrameType | None) -> None:
            passed_on.append(number)
            child.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
        try:
            status = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if passed_on:
        raise KeyboardInterrupt
    return status
