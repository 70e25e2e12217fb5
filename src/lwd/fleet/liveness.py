"""How a supervisor sees that its processes' main loops turn: each writes a byte into a pipe now and then.

A pipe, because it needs no disk (which may hang), no network and no clock: the supervisor judges by its own.
"""

import os
import stat
import time

VARIABLE = "LWD_LIVENESS"
"""`descriptor:inode` of the pipe."""
_EVERY_S = 0.5


class _Reporter:
    """This process's end; does nothing in a process that nobody supervises."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self.descriptor: int | None = None
        # Taken away: a child of this process has another file, if any, under that number.
        descriptor, _, inode = os.environ.pop(VARIABLE, "").partition(":")
        try:
            status = os.fstat(int(descriptor))
        except (ValueError, OSError):
            return
        if stat.S_ISFIFO(status.st_mode) and str(status.st_ino) == inode:
            self.descriptor = int(descriptor)
            os.set_inheritable(self.descriptor, False)
            os.set_blocking(self.descriptor, False)

    def report(self) -> None:
        if self.descriptor is None or (now_s := time.monotonic()) < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        try:
            os.write(self.descriptor, b".")
        except BlockingIOError:
            pass  # the supervisor itself stands still
        except OSError:
            self.descriptor = None  # it is gone


_reporter: _Reporter | None = None


def alive() -> None:
    """Tell the supervisor that this process's main loop turns. Cheap: call it in every round."""
    global _reporter
    if _reporter is None:
        _reporter = _Reporter()
    _reporter.report()


def handed_on() -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the variables and descriptors with which a child reports in place of this process."""
    global _reporter
    if _reporter is None:
        _reporter = _Reporter()
    if (descriptor := _reporter.descriptor) is None:
        return {}, ()
    return _variables(descriptor), (descriptor,)


class Pulse:
    """The supervisor's end of one process's pipe."""

    def __init__(self) -> None:
        self._read, self.write_end = os.pipe()
        os.set_blocking(self._read, False)
        self.reported = False
        """Whether the process has reported since its start."""
        self._last_s = time.monotonic()

    @property
    def environment(self) -> dict[str, str]:
        return _variables(self.write_end)

    def started(self) -> None:
        """The child has its end: close ours."""
        os.close(self.write_end)

    def silent_s(self) -> float:
        """Read what has come; return the time since the last report, or since the start."""
        try:
            while os.read(self._read, 65_536):
                self._last_s, self.reported = time.monotonic(), True
        except BlockingIOError:
            pass
        return time.monotonic() - self._last_s

    def close(self) -> None:
        os.close(self._read)


def _variables(descriptor: int) -> dict[str, str]:
    return {VARIABLE: f"{descriptor}:{os.fstat(descriptor).st_ino}"}
