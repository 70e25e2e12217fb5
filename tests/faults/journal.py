"""What a spool said is safe, written down independently of it."""

import os
from pathlib import Path

from lwd.fleet.spool import Spool, SpooledEpisode


class JournalingSpool(Spool):
    """The real spool, with a journal of what it said is safe: a line `<key> <sha256>` per episode."""

    def __init__(self, root: Path, journal: Path) -> None:
        super().__init__(root)
        journal.parent.mkdir(parents=True, exist_ok=True)
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def add(self, robot_id: str, episode_id: str, data: bytes) -> SpooledEpisode:
        spooled = super().add(robot_id, episode_id, data)
        os.write(self._journal, f"{spooled.key} {spooled.read()[1]}\n".encode())
        os.fsync(self._journal)
        return spooled


def journal_path(run: Path, name: str) -> Path:
    """Return the journal of a writer."""
    return run / "journal" / f"{name}.txt"


def read_journal(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every journalled episode by its key, in the order in which they were spooled."""
    if not path.exists():
        return {}
    # What follows the last newline is being written.
    lines = path.read_text().split("\n")[:-1]
    return dict(line.split(" ") for line in lines)
