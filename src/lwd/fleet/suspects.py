"""Which file a coordinator is looking at, so that its successor knows what ended it.

A file may find a bug in a library that no exception handler sees: the process is gone, its supervisor starts
another, and that one meets the same file. Who finds the same file named here often enough leaves it alone.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lwd.data import durable
from lwd.errors import StoreError

_MOST_COUNTED = 1000
_MAX_NOTE_BYTES = 2**22
MAX_DEATHS = 3
"""More than one: a process may be killed for other reasons while it looks at a good file."""


_logger = logging.getLogger(__name__)


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inspecting: str = ""
    deaths: dict[str, int] = {}


class Suspects:
    """Counts, by key, how often a process ended while it looked at a file. One process at a time writes it."""

    def __init__(self, path: Path) -> None:
        """Take over from the process before; a note that is damaged is begun again.

        Raises:
            StoreError: if what lies there can neither be read nor set aside.
        """
        self._path = path
        self._failing = False
        try:
            self._state = _State.model_validate_json(_read_note(path))
        except FileNotFoundError:
            self._state = _State()
        except ValidationError:
            _logger.warning("%s is damaged and begun again: files that ended a coordinator are counted anew", path)
            self._state = _State()
        if key := self._state.inspecting:
            self._state.deaths[key] = self._state.deaths.pop(key, 0) + 1
            while len(self._state.deaths) > _MOST_COUNTED:
                del self._state.deaths[next(iter(self._state.deaths))]
            self._state.inspecting = ""
        try:
            durable.replace(path, self._state.model_dump_json().encode())
        except StoreError as error:
            _logger.warning("%s; files are inspected all the same", error)

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
        """Write without fsync: it must outlive this process, not the machine, and costs 0.1 ms a file.

        Where it cannot be written, files are inspected all the same: a full disk here must stop no commit.
        """
        self._state.inspecting = key
        temporary = self._path.with_name(f".tmp-{os.getpid()}-{self._path.name}")
        try:
            temporary.write_bytes(self._state.model_dump_json().encode())
            temporary.replace(self._path)
        except OSError as error:
            if not self._failing:
                _logger.warning("%s cannot be written (%s): free space, or look there", self._path, error.strerror)
            self._failing = True
        else:
            self._failing = False


def _read_note(path: Path) -> bytes:
    """Read the note; what lies in its place and is no file is set aside.

    Raises:
        FileNotFoundError: if there is none.
        StoreError: if it can neither be read nor set aside.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            aside = path.with_name(f"{path.name}-set-aside-{os.urandom(4).hex()}")
            with durable.explained(path):
                path.rename(aside)
            _logger.warning("%s was no file and is set aside as %s: remove that", path, aside.name)
    try:
        with path.open("rb") as file:
            return file.read(_MAX_NOTE_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path} ({error.strerror}): delete it, it is made again") from error
