"""The durable spool of a robot: finished episodes wait here until a committed snapshot contains them.

An episode file that is in the spool survives kill -9 and power cuts. It leaves only when the log has it, or
when the coordinator has quarantined it (then it moves aside, with the reason beside it).
"""

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lwd.data import durable
from lwd.data.episode_file import episode_key
from lwd.errors import ServiceError

_SUFFIX = ".arrow"
_REJECTED = "rejected"


@dataclass(frozen=True, kw_only=True)
class SpooledEpisode:
    """One episode file in the spool."""

    robot_id: str
    episode_id: str
    path: Path
    spooled_at_s: float
    """Unix time."""

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

    def __init__(self, root: Path) -> None:
        self._root = root
        durable.ensure_directory(root)
        self._locks: list[int] = []

    def claim(self, robot_id: str) -> int:
        """Reserve a robot's directory for this process and remove rubbish that a crash left in it.

        Returns:
            How often the robot was claimed before.
        Raises:
            ServiceError: if another process runs this robot.
        """
        directory = self._root / robot_id
        durable.ensure_directory(directory)
        lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ServiceError(
                f"robot {robot_id!r} is run by another process: stop that one, or choose other robot ids"
            ) from error
        self._locks.append(lock)
        for leftover in directory.iterdir():
            if durable.is_temporary(leftover.name):
                leftover.unlink()
        claims = int(os.pread(lock, 32, 0) or b"0")
        os.pwrite(lock, str(claims + 1).encode(), 0)
        return claims

    def add(self, robot_id: str, episode_id: str, data: bytes) -> SpooledEpisode:
        """Store an episode file durably.

        Raises:
            StoreError: if the disk is full.
        """
        path = self._root / robot_id / f"{episode_id}{_SUFFIX}"
        durable.write_new(path, data)
        return SpooledEpisode(robot_id=robot_id, episode_id=episode_id, path=path, spooled_at_s=path.stat().st_mtime)

    def pending(self, robot_ids: set[str] | None = None) -> list[SpooledEpisode]:
        """Return what lies in the spool, oldest first; of all robots if `robot_ids` is None."""
        found = []
        for path in self._root.glob(f"*/*{_SUFFIX}"):
            if durable.is_temporary(path.name) or (robot_ids is not None and path.parent.name not in robot_ids):
                continue
            try:
                spooled_at_s = path.stat().st_mtime
            except FileNotFoundError:
                continue  # committed meanwhile, and removed by the host that runs the robot
            found.append(
                SpooledEpisode(robot_id=path.parent.name, episode_id=path.stem, path=path, spooled_at_s=spooled_at_s)
            )
        return sorted(found, key=lambda episode: (episode.spooled_at_s, episode.episode_id))

    def remove(self, episode: SpooledEpisode) -> None:
        """Delete an episode that a committed snapshot contains."""
        durable.remove(episode.path)

    def reject(self, episode: SpooledEpisode, reason: str) -> None:
        """Move an episode aside that will never be committed, with the reason."""
        directory = episode.path.parent / _REJECTED
        durable.replace(directory / f"{episode.episode_id}.txt", reason.encode())
        durable.move(episode.path, directory / episode.path.name)

    def close(self) -> None:
        """Release the robots."""
        while self._locks:
            os.close(self._locks.pop())
