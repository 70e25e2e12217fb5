"""The durable spool of a robot: finished episodes wait here until a committed snapshot contains them.

An episode file that is in the spool survives kill -9 and power cuts. It leaves only when the log has it, or
when the coordinator has quarantined it (then it moves aside, with the reason beside it).

The spool never refuses a finished episode for its limits: they decide whether another one may begin.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from lwd.data import durable
from lwd.data.episode_file import episode_key
from lwd.errors import ConfigError, ServiceError, StoreError
from lwd.fleet.spool_files import (
    SUFFIX,
    episode_files,
    open_lock,
    read_claims,
    remove_leftovers,
    robot_directories,
    warn_once,
)
from lwd.types import episode_identity

_REJECTED = "rejected"
_LOCK = ".lock"
_UNSEEN_BYTES = 16 * 2**20
"""Room for a robot's running episode while none was seen yet; then the largest one counts."""
_CLAIM_WITHIN_S = 1.0
"""Longer than another host looks whether a robot is abandoned."""
_FREE_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class SpoolLimits:
    """How much of the disk the spool of one host may use."""

    budget_bytes: int = 20 * 2**30
    """For all episodes of the host's robots, rejected ones included."""
    min_free_bytes: int = 2**30
    """Left free on the disk, whoever fills it."""

    def __post_init__(self) -> None:
        if self.budget_bytes < 1:
            raise ConfigError(f"spool budget is {self.budget_bytes} bytes; it must be positive")
        if self.min_free_bytes < 0:
            raise ConfigError(f"free space to keep is {self.min_free_bytes} bytes; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class SpooledEpisode:
    """One episode file in the spool."""

    robot_id: str
    episode_id: str
    path: Path
    size_bytes: int
    spooled_at_s: float
    """Unix time. Only to tell people: nothing is decided by it, the clock may have jumped since."""

    @property
    def identity(self) -> str:
        """What tells episodes apart, as in the log."""
        return episode_identity(self.robot_id, self.episode_id)

    @property
    def key(self) -> str:
        """Where it belongs in the store."""
        return episode_key(self.robot_id, self.episode_id)

    def read(self) -> tuple[bytes, str]:
        """Return the file and its SHA-256."""
        data = self.path.read_bytes()
        return data, hashlib.sha256(data).hexdigest()


class Spool:
    """All spool directories of a machine: RUN/spool/<robot id>/<episode id>.arrow."""

    def __init__(self, root: Path, limits: SpoolLimits | None = None) -> None:
        self._root = root
        self._limits = limits or SpoolLimits()
        durable.ensure_directory(root)
        self._locks: dict[str, int] = {}
        self._changing = threading.Lock()
        """Held while files come and go, so that counting them sees each once."""
        self._sizes: dict[Path, int] = {}
        """Everything of the claimed robots that lies on the disk, rejected episodes included."""
        self._largest_bytes = 0
        self._free_bytes, self._look_at_s = 0, 0.0
        self.used_bytes = 0
        """What the claimed robots' episodes take on the disk."""

    @property
    def root(self) -> Path:
        """The directory of all spools."""
        return self._root

    def claim(self, robot_id: str) -> int:
        """Reserve a robot's directory for this process and remove rubbish that a crash left in it.

        Returns:
            How often the robot was claimed before, on this machine.
        Raises:
            ServiceError: if another process runs this robot.
            StoreError: if the disk is full.
        """
        directory = self._root / robot_id
        durable.ensure_directory(directory)
        with durable.explained(directory / _LOCK):
            lock = open_lock(directory / _LOCK)
        deadline_s = time.monotonic() + _CLAIM_WITHIN_S
        while not _locked(lock):
            if time.monotonic() > deadline_s:
                os.close(lock)
                raise ServiceError(
                    f"robot {robot_id!r} is run by another process: stop that one, or choose other robot ids"
                )
            time.sleep(0.05)
        self._locks[robot_id] = lock
        remove_leftovers(directory)
        with durable.explained(directory / _LOCK):
            claims = read_claims(lock, directory / _LOCK)
            os.pwrite(lock, str(claims + 1).encode(), 0)
            os.ftruncate(lock, len(str(claims + 1)))
            # Episode ids sort by it, so it must not fall back in a power cut.
            os.fsync(lock)
        self._measure(robot_id)
        return claims

    def count(self) -> None:
        """Measure what the claimed robots have on the disk: people may remove rejected episodes by hand."""
        for robot_id in tuple(self._locks):
            self._measure(robot_id)

    def shortage(self, coming: int) -> str:
        """Say why no episode may begin; empty if one may.

        Args:
            coming: episodes that are not in the spool yet and must still fit: running ones, and finished ones.
        """
        limits, robots = self._limits, max(1, len(self._locks))
        reserve = self._largest_bytes or min(_UNSEEN_BYTES, limits.budget_bytes // (2 * robots))
        needed = (coming + 1) * reserve
        if self.used_bytes + needed > limits.budget_bytes:
            return (
                f"the spool {self._root} holds {_mib(self.used_bytes)} and keeps {_mib(needed)} for {coming + 1} "
                f"episodes, of {_mib(limits.budget_bytes)}: see why episodes are not committed (store, bus, "
                f"coordinator), remove what lies in {_REJECTED}/, or raise the budget"
            )
        if time.monotonic() >= self._look_at_s:
            self._free_bytes, self._look_at_s = shutil.disk_usage(self._root).free, time.monotonic() + _FREE_EVERY_S
        if self._free_bytes - needed < limits.min_free_bytes:
            return (
                f"the disk of {self._root} has {_mib(self._free_bytes)} left; after {coming + 1} episodes of "
                f"{_mib(reserve)} it is to keep {_mib(limits.min_free_bytes)} free: free space on it"
            )
        return ""

    def add(self, robot_id: str, episode_id: str, data: bytes) -> SpooledEpisode:
        """Store an episode file durably.

        Raises:
            StoreError: if the disk is full, or something else is in its place.
        """
        path = self._root / robot_id / f"{episode_id}{SUFFIX}"
        with self._changing:
            if not durable.write_new(path, data) and not _holds(path, data):
                raise StoreError(f"{path} is there already and is no episode of these bytes: move it away")
            self._note(path, len(data))
        return SpooledEpisode(
            robot_id=robot_id, episode_id=episode_id, path=path, size_bytes=len(data), spooled_at_s=time.time()
        )

    def pending(self, robot_ids: set[str] | None = None) -> list[SpooledEpisode]:
        """Return what lies in the spool by robot and id, so each robot's oldest first; None: of all robots."""
        return self._found(robot_ids, "")

    def rejected(self, robot_ids: set[str] | None = None) -> list[SpooledEpisode]:
        """Return what was moved aside by `reject`, as `pending` does."""
        return self._found(robot_ids, _REJECTED)

    def unclaimed(self) -> set[str]:
        """Return the robots that no process runs at this moment, with or without episodes."""
        found = set()
        for directory in robot_directories(self._root):
            if directory.name in self._locks:
                continue
            try:
                lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                found.add(directory.name)
                continue
            except OSError as error:
                # Whoever runs the robot could lock it, so perhaps somebody does.
                warn_once(directory / _LOCK, f"cannot be opened ({error.strerror}): move it away if nobody runs it")
                continue
            if _locked(lock):
                found.add(directory.name)
            os.close(lock)  # and unlocks it
        return found

    def remove(self, episode: SpooledEpisode) -> None:
        """Delete an episode that a committed snapshot contains."""
        with self._changing:
            durable.remove(episode.path)
            if episode.path.parent.name == _REJECTED:
                durable.remove(episode.path.with_suffix(".txt"))
            self._forget(episode.path)

    def reject(self, episode: SpooledEpisode, reason: str) -> None:
        """Move an episode aside that will never be committed, with the reason."""
        aside = episode.path.parent / _REJECTED / episode.path.name
        with self._changing:
            durable.replace(aside.with_suffix(".txt"), reason.encode())
            durable.move(episode.path, aside)
            if episode.path in self._sizes:
                self._forget(episode.path)
                self._note(aside, episode.size_bytes)

    def restore(self, episode: SpooledEpisode) -> SpooledEpisode:
        """Move an episode that was rejected back among those that wait for their commit.

        Raises:
            StoreError: if the disk fails.
        """
        path = self._root / episode.robot_id / episode.path.name
        with self._changing:
            durable.move(episode.path, path)
            durable.remove(episode.path.with_suffix(".txt"))
            self._forget(episode.path)
            self._note(path, episode.size_bytes)
        return replace(episode, path=path)

    def close(self) -> None:
        """Release the robots."""
        while self._locks:
            os.close(self._locks.popitem()[1])

    def _measure(self, robot_id: str) -> None:
        directory = self._root / robot_id
        with self._changing:
            for path in [path for path in self._sizes if directory in path.parents]:
                self._forget(path)
            for file in (*episode_files(directory), *episode_files(directory / _REJECTED)):
                self._note(file.path, file.size_bytes)

    def _found(self, robot_ids: set[str] | None, within: str) -> list[SpooledEpisode]:
        found = [
            SpooledEpisode(
                robot_id=directory.name,
                episode_id=file.path.name.removesuffix(SUFFIX),
                path=file.path,
                size_bytes=file.size_bytes,
                spooled_at_s=file.modified_s,
            )
            for directory in robot_directories(self._root)
            if robot_ids is None or directory.name in robot_ids
            for file in episode_files(directory / within)
        ]
        return sorted(found, key=lambda episode: (episode.robot_id, episode.episode_id))

    def _note(self, path: Path, size_bytes: int) -> None:
        self._forget(path)
        self._sizes[path] = size_bytes
        self.used_bytes += size_bytes
        self._largest_bytes = max(self._largest_bytes, size_bytes)

    def _forget(self, path: Path) -> None:
        self.used_bytes -= self._sizes.pop(path, 0)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode) and path.read_bytes() == data
    except OSError:
        return False


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
