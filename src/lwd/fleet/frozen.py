"""When a process counts as frozen, and how its supervisor says so."""

from pathlib import Path

FROZEN_AFTER_S = 20.0
"""Silence of a main loop that turns many times a second; an update of a large policy may take longer, and is named."""
_MOST_APART_S = 3600.0
_STATES = {
    "T": "it is stopped: by SIGSTOP or Ctrl-Z (`kill -CONT {pid}` lets it go on)",
    "t": "it is stopped by a debugger",
    "D": "it waits for a disk or a network file system",
    "R": "it computes, in one long step or in an endless loop",
    "S": "it sleeps: it waits for something, or its threads wait for each other",
}


class FrozenWatch:
    """Follows one process: what to say of its silence, and when."""

    def __init__(self) -> None:
        self.frozen = False
        self._longest_s = 0.0
        self._next_s = FROZEN_AFTER_S

    def look(self, pid: int, silent_s: float, *, reported: bool) -> str | None:
        """Return what is to be said now, None for nothing.

        Args:
            silent_s: since the process reported last, or since its start.
            reported: whether it has reported since its start. One that has not may still load a large policy or fill
                its replay: it counts as frozen only if the system has stopped it.
        """
        if silent_s < FROZEN_AFTER_S:
            before_s, was_frozen = self._longest_s, self.frozen
            self.frozen, self._longest_s, self._next_s = False, 0.0, FROZEN_AFTER_S
            return f"goes on, after {before_s:.0f} s" if was_frozen else None
        state = process_state(pid)
        if not reported and state not in ("T", "t"):
            return None
        self.frozen, self._longest_s = True, silent_s
        if silent_s < self._next_s:
            return None
        self._next_s = silent_s + min(silent_s, _MOST_APART_S)
        why = _STATES.get(state, "its state is not known").format(pid=pid)
        return f"(pid {pid}) is frozen: no sign of life from its main loop for {silent_s:.0f} s; {why}"


def process_state(pid: int) -> str:
    """Return the letter of the kernel for what a process does; empty where it is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
