"""Which file a coordinator is looking at, so that its successor knows what ended it.

A file may find a bug in a library that no exception handler sees: the process is gone, its supervisor starts
another, and that one meets the same file. Who finds the same file named here often enough leaves it alone.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lwd.data import durable

MAX_DEATHS = 3
"""More than one: a process may be killed for other reasons while it looks at a good file."""


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inspecting: str = ""
    deaths: dict[str, int] = {}


class Suspects:
    """Counts, by key, how often a process ended while it looked at a file. One process at a time writes it."""

    def __init__(self, path: Path) -> None:
        """Take over from the process before; a note that is damaged is begun again.

        Raises:
            StoreError: if the note cannot be written.
        """
        self._path = path
        try:
            self._state = _State.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            self._state = _State()
        if key := self._state.inspecting:
            self._state.deaths[key] = self._state.deaths.get(key, 0) + 1
            self._state.inspecting = ""
        durable.replace(path, self._state.model_dump_json().encode())

    def deaths(self, key: str) -> int:
        """Return how many processes ended while they looked at this file."""
        return self._state.deaths.get(key, 0)

    def forget(self, key: str) -> None:
        """Begin to count anew."""
        if self._state.deaths.pop(key, None) is not None:
            self._note("")

    @contextlib.contextmanager
    def inspecting(self, key: str) -> Iterator[None]:
        """Note the key for as long as the block runs."""
        self._note(key)
        try:
            yield
        finally:
            # An exception is no death: the process lives.
            self._state.deaths.pop(key, None)
            self._note("")

    def _note(self, key: str) -> None:
        """Write without fsync: it must outlive this process, not the machine, and costs 0.1 ms a file."""
        self._state.inspecting = key
        temporary = self._path.with_name(f".tmp-{os.getpid()}-{self._path.name}")
        with durable.explained(self._path):
            temporary.write_bytes(self._state.model_dump_json().encode())
            temporary.replace(self._path)
