"""Child processes that never outlive their parent, and that stop in order.

On Linux the kernel sends a signal to the child when its parent dies, also after kill -9. Other systems have
no such signal: there a killed supervisor leaves its children running.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: nothing may allocate or import between fork and exec.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str],
    *,
    log: Path | None,
    environment: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, with its output appended to `log` (None: to where this process's goes).

    Must be called from the thread that lives longest (the main thread): the kernel watches the thread.

    Args:
        death_signal: what the child gets when this process dies.
        environment: variables to add to this process's environment.
        pass_fds: descriptors that the child gets, beside its standard ones.
    """
    parent = os.getpid()

    def in_child() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:
                os._exit(1)

    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if log is None else log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            preexec_fn=in_child,
            # Ctrl-C at the terminal reaches the supervisor only; it stops the children in order.
            start_new_session=True,
            pass_fds=pass_fds,
        )


def stop(process: subprocess.Popen[bytes], *, patience_s: float = 15.0) -> int:
    """Ask a child to stop (SIGTERM), then kill it after `patience_s`. Returns its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def stop_all(processes: Sequence[subprocess.Popen[bytes]], *, patience_s: float = 15.0) -> None:
    """Stop several children at the same time."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline_s = time.monotonic() + patience_s
    for process in processes:
        stop(process, patience_s=max(0.0, deadline_s - time.monotonic()))
