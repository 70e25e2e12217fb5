"""The durable spool of a robot: finished episodes wait here until a committed snapshot contains them.

An episode file that is in the spool survives kill -9 and power cuts. It leaves only when the log has it, or
when the coordinator has quarantined it (then it moves aside, with the reason beside it).

The spool never refuses a finished episode for its limits: they decide whether another one may begin.
"""

import fcntl
import hashlib
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lwd.data import durable
from lwd.data.episode_file import episode_key
from lwd.errors import ConfigError, ServiceError
from lwd.types import episode_identity

_SUFFIX = ".arrow"
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
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline_s = time.monotonic() + _CLAIM_WITHIN_S
        while not _locked(lock):
            if time.monotonic() > deadline_s:
                os.close(lock)
                raise ServiceError(
                    f"robot {robot_id!r} is run by another process: stop that one, or choose other robot ids"
                )
            time.sleep(0.05)
        self._locks[robot_id] = lock
        for leftover in directory.iterdir():
            if durable.is_temporary(leftover.name):
                leftover.unlink()
        claims = int(os.pread(lock, 32, 0) or b"0")
        with durable.explained(directory / _LOCK):
            os.pwrite(lock, str(claims + 1).encode(), 0)
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
            StoreError: if the disk is full.
        """
        path = self._root / robot_id / f"{episode_id}{_SUFFIX}"
        with self._changing:
            durable.write_new(path, data)
            self._note(path, len(data))
        return SpooledEpisode(
            robot_id=robot_id, episode_id=episode_id, path=path, size_bytes=len(data), spooled_at_s=time.time()
        )

    def pending(self, robot_ids: set[str] | None = None) -> list[SpooledEpisode]:
        """Return what lies in the spool by robot and id, so each robot's oldest first; None: of all robots."""
        found = []
        for path in self._root.glob(f"*/*{_SUFFIX}"):
            if durable.is_temporary(path.name) or (robot_ids is not None and path.parent.name not in robot_ids):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # committed meanwhile, and removed by the host that runs the robot
            found.append(
                SpooledEpisode(
                    robot_id=path.parent.name,
                    episode_id=path.stem,
                    path=path,
                    size_bytes=status.st_size,
                    spooled_at_s=status.st_mtime,
                )
            )
        return sorted(found, key=lambda episode: (episode.robot_id, episode.episode_id))

    def unclaimed(self) -> set[str]:
        """Return the robots that no process runs at this moment, with or without episodes."""
        found = set()
        for directory in self._root.iterdir():
            if not directory.is_dir() or directory.name in self._locks:
                continue
            try:
                lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                found.add(directory.name)
                continue
            if _locked(lock):
                found.add(directory.name)
            os.close(lock)  # and unlocks it
        return found

    def remove(self, episode: SpooledEpisode) -> None:
        """Delete an episode that a committed snapshot contains."""
        with self._changing:
            durable.remove(episode.path)
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

    def close(self) -> None:
        """Release the robots."""
        while self._locks:
            os.close(self._locks.popitem()[1])

    def _measure(self, robot_id: str) -> None:
        directory = self._root / robot_id
        with self._changing:
            for path in [path for path in self._sizes if directory in path.parents]:
                self._forget(path)
            for path in directory.glob(f"**/*{_SUFFIX}"):
                self._note(path, path.stat().st_size)

    def _note(self, path: Path, size_bytes: int) -> None:
        self._forget(path)
        self._sizes[path] = size_bytes
        self.used_bytes += size_bytes
        self._largest_bytes = max(self._largest_bytes, size_bytes)

    def _forget(self, path: Path) -> None:
        self.used_bytes -= self._sizes.pop(path, 0)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
