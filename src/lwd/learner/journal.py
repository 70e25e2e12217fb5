"""The looks at the log that a stage has made, so that its updates can be repeated exactly."""

import json
from pathlib import Path

from lwd.data import durable
from lwd.errors import ResumeError


class SnapshotJournal:
    """Which snapshot the replay was at, from which update on: one JSON line per look at the log.

    Looks that found nothing new are lines, too: a repeated update must not find more than it did at first.
    """

    def __init__(self, path: Path) -> None:
        """Read the journal, if there is one.

        Raises:
            ResumeError: if a line is damaged.
        """
        self._path = path
        self._lines: list[tuple[int, int]] = []
        durable.ensure_directory(path.parent)
        if not path.exists():
            return
        content = path.read_bytes()
        # A last line that a crash has cut belongs to a look after which no update was done.
        complete = content[: content.rfind(b"\n") + 1]
        try:
            self._lines = [(row["update"], row["snapshot"]) for row in map(json.loads, complete.splitlines())]
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(
                f"{path} is damaged ({error!r}), so the updates since the last checkpoint cannot be repeated "
                "exactly: remove it to continue from the checkpoint on the newest data"
            ) from error
        if complete != content:
            durable.replace(path, complete)

    @property
    def first(self) -> int | None:
        """The snapshot that the stage began on; None in an empty journal."""
        return self._lines[0][1] if self._lines else None

    def add(self, update: int, snapshot: int) -> None:
        """Note that after `update` updates the log was looked at, and the replay moved to `snapshot`."""
        if self._lines and self._lines[-1] == (update, snapshot):
            return  # a stage that waits for data looks again and again
        with self._path.open("a") as file:
            file.write(json.dumps({"update": update, "snapshot": snapshot}) + "\n")
        self._lines.append((update, snapshot))

    def after(self, update: int, snapshot: int) -> list[tuple[int, int]]:
        """Return the looks of a stage that has done `update` updates and is at `snapshot`, in their order."""
        return [(at, to) for at, to in self._lines if at >= update and to >= snapshot]
