"""Local writes that survive a power cut: temporary file, fsync, link or rename, fsync of the directory.

A reader sees the whole file or none. (Neither obstore's nor Lance's local store ever calls fsync.)
"""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from lwd.errors import StoreError

_TEMPORARY = ".tmp-"
_lasting: set[Path] = set()
"""Directories whose own entry this process knows to be on the disk."""
_settled: dict[Path, int] = {}
"""Directories all of whose entries this process knows to be on the disk, with their time of change (ns)."""
_SAME_TICK_NS = 50_000_000
"""Longer than the kernel's clock tick: two changes within one may leave the same time."""


def write_new(path: Path, data: bytes) -> bool:
    """Create a file durably, unless it exists.

    Returns:
        True if this call created it, False if it was there before (then it is left as it is, and is durable).
    Raises:
        StoreError: if the disk is full or the directory cannot be written.
    """
    with explained(path):
        _ensure_directory(path.parent)
        temporary = _write_temporary(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
            # Also after FileExistsError: the other writer may have died between its link and its fsync.
            sync_directory(path.parent)
        return True


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file durably in place of what was there.

    Raises:
        StoreError: if the disk is full or the directory cannot be written.
    """
    with explained(path):
        _ensure_directory(path.parent)
        temporary = _write_temporary(path, data, mode)
        temporary.replace(path)
        sync_directory(path.parent)


def remove(path: Path) -> None:
    """Delete a file durably; a file that is gone already is fine."""
    with explained(path):
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def move(source: Path, target: Path) -> None:
    """Move a file durably within one file system, replacing the target."""
    with explained(target):
        _ensure_directory(target.parent)
        source.replace(target)
        sync_directory(target.parent)
        sync_directory(source.parent)


def ensure_directory(path: Path) -> None:
    """Create a directory and its missing parents durably.

    Raises:
        StoreError: if the disk is full or a parent cannot be written.
    """
    with explained(path):
        _ensure_directory(path)


def settle(directory: Path) -> None:
    """Make everything last that can be seen in a directory; cheap while nothing in it changes.

    A name can be seen before its writer's fsync, and stays when that fails. Whoever acts on what it read must not
    be contradicted by a power cut.

    Raises:
        OSError: if the disk fails.
    """
    changed_ns = directory.stat().st_mtime_ns
    if _settled.get(directory) == changed_ns:
        return
    _ensure_directory(directory)
    with contextlib.suppress(PermissionError):  # we may read files here, but not list them: nor could we find any
        sync_directory(directory)
    if abs(time.time_ns() - changed_ns) > _SAME_TICK_NS:
        _settled[directory] = changed_ns


def leftovers(directory: Path, *, older_s: float = 3600.0) -> list[Path]:
    """Return the temporary files below a directory that no write can still be busy with: rubbish after crashes.

    Ages are measured by the file system's own times.

    Raises:
        StoreError: if the directory cannot be read or written.
    """
    with explained(directory):
        clock = directory / f"{_TEMPORARY}{uuid.uuid4().hex}"
        clock.write_bytes(b"")
        try:
            now_s = clock.stat().st_mtime
        finally:
            clock.unlink()
        found = []
        for path in directory.rglob(f"{_TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and now_s - path.stat().st_mtime > older_s:
                    found.append(path)
        return sorted(found)


def remove_leftovers(directory: Path) -> int:
    """Remove what `leftovers` finds; return how many. A directory that is not there, or not ours, is left alone."""
    removed = 0
    with contextlib.suppress(StoreError, OSError):
        for path in leftovers(directory):
            path.unlink()
            removed += 1
    return removed


def is_temporary(name: str) -> bool:
    """Whether a file name is one of ours that never became a file: rubbish after a crash."""
    return name.startswith(_TEMPORARY)


def _ensure_directory(path: Path) -> None:
    if not path.is_dir():
        _ensure_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)
    elif path not in _lasting:
        # Whoever made it may have died, or failed, before the fsync; then a power cut would take all of it.
        with contextlib.suppress(PermissionError):
            sync_directory(path.parent)
    _lasting.add(path)


def _write_temporary(path: Path, data: bytes, mode: int = 0o644) -> Path:
    # Not the process id: containers that share a directory have the same ones.
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}-{path.name[:100]}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_directory(path: Path) -> None:
    """Make what was created, renamed and deleted in a directory last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class explained:  # noqa: N801  (used like a function)
    """Context manager that turns an OSError into a StoreError that says what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left to write {self._path}: free space on its disk") from error
        remedy = "make its file system writable" if error.errno == errno.EROFS else "check the path and its permissions"
        raise StoreError(f"cannot write {self._path} ({error.strerror}): {remedy}") from error
