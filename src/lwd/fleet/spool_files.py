"""What lies in a spool's directories: episode files, and what somebody or a crash put in their place.

Nothing that is found here may keep the other episodes from being shipped, so nothing raises for it.
"""

import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lwd.data import durable
from lwd.data.episode_file import NAME_PATTERN

SUFFIX = ".arrow"
_NAME = re.compile(NAME_PATTERN)
_MOST_CLAIMS = 999_999
"""Episode ids have six digits for it."""
_START = re.compile(r"^([0-9]{6})-[0-9]{6}-")
_MOST_NOTED = 1000

_logger = logging.getLogger(__name__)
_noted: set[str] = set()
STORE_NOTE = "store.json"
"""In the root of the spools: which store their episodes go to."""


@dataclass(frozen=True)
class EpisodeFile:
    """A regular file whose name is an episode's."""

    path: Path
    size_bytes: int
    modified_s: float


def warn_once(path: Path, problem: str) -> None:
    """Name something that is passed over, once per path and problem."""
    line = f"{path} {problem}"
    if line not in _noted:
        if len(_noted) >= _MOST_NOTED:
            _noted.clear()
        _noted.add(line)
        _logger.warning("%s", line)


def robot_directories(root: Path) -> list[Path]:
    """Return the directories of a spool that have a robot's name."""
    found = []
    for entry in _entries(root):
        path = Path(entry.path)
        if durable.is_temporary(entry.name) or entry.name == STORE_NOTE:
            continue
        if not _NAME.fullmatch(entry.name):
            warn_once(path, "is passed over, its name is no robot id: rename it or move it away")
        elif path.is_dir():
            found.append(path)
        else:
            warn_once(path, "is passed over, it is no robot's directory: move it away")
    return found


def episode_files(directory: Path) -> Iterator[EpisodeFile]:
    """Yield the episode files of a directory, not those of directories in it."""
    for entry in _entries(directory):
        if not entry.name.endswith(SUFFIX) or durable.is_temporary(entry.name):
            continue
        path = Path(entry.path)
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # committed meanwhile, and removed by the host that runs the robot
        except OSError as error:
            warn_once(path, f"is passed over ({error.strerror}): check the disk")
            continue
        if not stat.S_ISREG(status.st_mode):
            warn_once(path, "is passed over, it is a directory, link, pipe or device and no episode: move it away")
        elif not _NAME.fullmatch(entry.name.removesuffix(SUFFIX)):
            warn_once(path, "is passed over, its name is no episode id: rename it or move it away")
        else:
            yield EpisodeFile(path, status.st_size, status.st_mtime)


def remove_leftovers(directory: Path) -> None:
    """Remove what writers that died left."""
    for entry in _entries(directory):
        if durable.is_temporary(entry.name):
            try:
                Path(entry.path).unlink()
            except OSError as error:
                warn_once(Path(entry.path), f"cannot be removed ({error.strerror}): remove it")


def open_lock(path: Path) -> int:
    """Open a robot's lock; what lies in its place and is no file is set aside.

    Raises:
        OSError: if it can neither be opened nor be replaced.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            aside = path.with_name(f"{path.name}-set-aside-{os.urandom(4).hex()}")
            path.rename(aside)
            warn_once(path, f"was no file and is set aside as {aside.name}: remove that")
    except FileNotFoundError:
        pass
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)


def read_claims(lock: int, path: Path) -> int:
    """Return how often a robot was claimed before, by the number in its lock.

    Where that is damaged: one more than the largest start among the ids of the episodes that lie there, so that the
    ids of the robot still sort as they were recorded. (Their random part keeps them apart in any case.)
    """
    text = os.pread(lock, 32, 0)
    if not text:
        return 0
    if text.isdigit() and int(text) <= _MOST_CLAIMS:
        return int(text)
    files = (*episode_files(path.parent), *episode_files(path.parent / "rejected"))
    starts = (int(found[1]) for file in files if (found := _START.match(file.path.name)))
    claims = min(max(starts, default=-1) + 1, _MOST_CLAIMS)
    warn_once(path, f"holds no number of starts: it is begun again at {claims}")
    return claims


def _entries(directory: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        warn_once(directory, f"is passed over, it cannot be listed ({error.strerror}): check it")
        return []
