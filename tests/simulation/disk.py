"""A machine's disk: real files, of which a power cut takes away what was not fsynced.

`os` is hooked while a simulation runs: every call below a simulated disk is a point at which the process may
die or another one may go on, and is remembered until an fsync of its directory (or of the file) makes it last.
A power cut keeps, in every directory, some first part of what was not synced. That is harsher than ext4.
"""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

_HOOKED = ("open", "link", "unlink", "replace", "mkdir", "fsync")
_REAL = {name: getattr(os, name) for name in _HOOKED}


@dataclass(kw_only=True, eq=False)
class _Change:
    """A change of directories that no fsync has made last yet."""

    directories: frozenset[str]
    undo: Callable[[], None]


class Disk:
    """One directory tree and what of it would not survive a power cut."""

    def __init__(self, root: Path, grave: Path) -> None:
        """
        Args:
            root: the files.
            grave: a directory beside it, for the bytes of deleted files whose deletion may be undone.
        """
        self.root = root
        self._grave = grave
        self._changes: list[_Change] = []
        self._unsynced_files: set[int] = set()
        self._buried = 0
        root.mkdir(parents=True, exist_ok=True)
        grave.mkdir(parents=True, exist_ok=True)

    @property
    def unsettled(self) -> bool:
        """Whether a power cut could take anything away."""
        return bool(self._changes or self._unsynced_files)

    def open(self, path: str, flags: int, *rest: Any, **options: Any) -> int:
        existed = Path(path).exists()
        descriptor: int = _REAL["open"](path, flags, *rest, **options)
        if flags & os.O_CREAT and not existed:
            self._remember((path,), lambda: _remove(path))
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._unsynced_files.add(os.fstat(descriptor).st_ino)
        return descriptor

    def link(self, source: str, target: str) -> None:
        _REAL["link"](source, target)
        self._remember((target,), lambda: _remove(target))

    def unlink(self, path: str) -> None:
        buried = self._bury(path)
        _REAL["unlink"](path)
        self._remember((path,), lambda: _bring_back(buried, path))

    def replace(self, source: str, target: str) -> None:
        buried = self._bury(target) if Path(target).exists() else None
        _REAL["replace"](source, target)

        def undo() -> None:
            if Path(target).exists() and Path(source).parent.is_dir():
                _REAL["replace"](target, source)
            if buried is not None:
                _bring_back(buried, target)

        self._remember((source, target), undo)

    def mkdir(self, path: str, *rest: Any) -> None:
        _REAL["mkdir"](path, *rest)
        self._remember((path,), lambda: shutil.rmtree(path, ignore_errors=True))

    def sync(self, descriptor: int, path: str, now_s: float) -> None:
        if Path(path).is_dir():
            self._changes = [change for change in self._changes if path not in change.directories]
        else:
            self._unsynced_files.discard(os.fstat(descriptor).st_ino)
            os.utime(descriptor, (now_s, now_s))

    def cut_power(self, random: random.Random) -> None:
        """Forget what was not synced, or some of it; all processes of the machine must be dead."""
        kept: set[_Change] = set()
        for directory in sorted({name for change in self._changes for name in change.directories}):
            changes = [change for change in self._changes if directory in change.directories]
            kept.update(changes[: random.randint(0, len(changes))])
        for change in reversed(self._changes):
            if change not in kept:
                change.undo()
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and path.stat().st_ino in self._unsynced_files:
                os.truncate(path, random.randint(0, path.stat().st_size))
        self._changes.clear()
        self._unsynced_files.clear()

    def _remember(self, paths: tuple[str, ...], undo: Callable[[], None]) -> None:
        self._changes.append(_Change(directories=frozenset(str(Path(path).parent) for path in paths), undo=undo))

    def _bury(self, path: str) -> Path:
        self._buried += 1
        buried = self._grave / str(self._buried)
        _REAL["link"](path, buried)
        return buried


def _remove(path: str) -> None:
    if Path(path).exists():
        _REAL["unlink"](path)


def _bring_back(buried: Path, path: str) -> None:
    if not Path(path).exists() and Path(path).parent.is_dir():
        _REAL["link"](buried, path)


class DiskHooks:
    """Sends the `os` calls of simulated processes to their disks; all others go straight to the kernel."""

    def __init__(
        self,
        *,
        disk_of: Callable[[str], Disk | None],
        inside: Callable[[], bool],
        before: Callable[[str, str], None],
        full: Callable[[], bool],
        now_s: Callable[[], float],
    ) -> None:
        """
        Args:
            disk_of: the disk of a path, None if it is none of ours.
            inside: whether the calling thread is a simulated process's.
            before: called ahead of every effect with its name and path.
            full: whether the disk has no space for the file that is being synced.
            now_s: Unix time of the calling process, for modification times.
        """
        self._disk_of = disk_of
        self._inside = inside
        self._before = before
        self._full = full
        self._now_s = now_s
        self._paths: dict[int, tuple[Disk, str]] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        hooks = {
            "open": self._open,
            "fsync": self._fsync,
            "link": lambda *args, **options: self._two_paths("link", *args, **options),
            "replace": lambda *args, **options: self._two_paths("replace", *args, **options),
            "unlink": lambda *args, **options: self._one_path("unlink", *args, **options),
            "mkdir": lambda *args, **options: self._one_path("mkdir", *args, **options),
        }
        with mock.patch.multiple(os, **hooks):
            yield

    def _find(self, path: Any) -> Disk | None:
        return self._disk_of(os.fspath(path)) if isinstance(path, str | Path) and self._inside() else None

    def _open(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        disk = self._find(path)
        if disk is None:
            return int(_REAL["open"](path, flags, *rest, **options))
        name = os.fspath(path)
        if flags & os.O_CREAT:
            self._before("open", name)
        descriptor = disk.open(name, flags, *rest, **options)
        self._paths[descriptor] = (disk, name)
        return descriptor

    def _fsync(self, descriptor: int) -> None:
        if not self._inside() or descriptor not in self._paths:
            _REAL["fsync"](descriptor)
            return
        disk, name = self._paths[descriptor]
        self._before("fsync", name)
        if self._full():
            raise OSError(errno.ENOSPC, "No space left on device")
        disk.sync(descriptor, name, self._now_s())

    def _one_path(self, call: str, path: Any, *rest: Any, **options: Any) -> None:
        disk = self._find(path)
        if disk is None:
            _REAL[call](path, *rest, **options)
            return
        self._before(call, os.fspath(path))
        getattr(disk, call)(os.fspath(path), *rest)

    def _two_paths(self, call: str, source: Any, target: Any, **options: Any) -> None:
        disk = self._find(source)
        if disk is None:
            _REAL[call](source, target, **options)
            return
        self._before(call, os.fspath(target))
        getattr(disk, call)(os.fspath(source), os.fspath(target))
