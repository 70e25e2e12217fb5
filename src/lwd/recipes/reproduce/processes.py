"""A verb as a process in the background: its output goes to a log, SIGINT lets it save and end."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lwd.fleet.process import spawn
from lwd.recipes.verbs import verb_command

_PATIENCE_S = 60.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Small matrices: a second thread per process costs more than it gives, and cells run side by side."""


class VerbProcess(Protocol):
    """A verb that was started."""

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""

    def interrupt(self) -> None:
        """Ask it to save and end."""

    def wait(self) -> int:
        """Wait for its end; return its exit status."""


Start = Callable[[Sequence[str], Path], VerbProcess]
"""Starts a verb; its output is added to the log file."""


class _Spawned:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def interrupt(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        try:
            return self._process.wait(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def start_verb(arguments: Sequence[str], log: Path) -> VerbProcess:
    """Start a verb of ours with one thread per process."""
    return _Spawned(spawn(verb_command(*arguments), log=log, environment=_ONE_THREAD))


def error_in(log: Path, status: int) -> str:
    """What a failed verb said last: its own error line, or the last line of a traceback."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    own = next((line for line in reversed(lines) if line.startswith("lwd ")), None)
    said = own or (lines[-1] if lines else "it said nothing")
    return f"{said} (status {status})"
