"""SIGUSR1 to a robot host stops it, and with it every host of its run directory: for a button beside the robot.

    pkill -USR1 -f 'lwd robot'          # or: touch RUN/stop/button

The signal is taken by a thread of its own, through the file descriptor that the interpreter writes to at the moment at
which it arrives: a Python handler would wait for the main thread, which may be the one that hangs.
"""

import os
import signal
import threading

from lwd.fleet.stop_latch import StopLatch

BUTTON = "button"
"""Who stopped, after a signal."""


class StopSignal:
    """Listens from its creation, in the main thread, until `close`."""

    def __init__(self, latch: StopLatch, host_id: str) -> None:
        self._latch, self._host_id = latch, host_id
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # The interpreter writes to the descriptor only for signals that have a handler; this one has nothing to do.
        self._previous = signal.signal(signal.SIGUSR1, lambda *_: None)
        self._previous_descriptor = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="stop signal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more signals."""
        signal.set_wakeup_fd(self._previous_descriptor)
        signal.signal(signal.SIGUSR1, self._previous)
        os.close(self._writing)
        self._thread.join(1.0)
        os.close(self._reading)

    def _run(self) -> None:
        # SIGTERM and SIGINT arrive here, too.
        while numbers := os.read(self._reading, 64):
            if signal.SIGUSR1 in numbers:
                self._latch.stop(BUTTON, f"signal to {self._host_id}"[:200])
