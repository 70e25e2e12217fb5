"""A directory that is held by descriptor: what is mounted over it, or moved into its place, is noticed.

While the descriptor is open, the kernel gives its device and inode to nothing else, so comparing them with the
path's tells one directory from another; and `umount` refuses with "target is busy" while a process holds it.
"""

import os
import threading
from pathlib import Path

from lwd.data import durable
from lwd.errors import StoreError

_IDENTITY = "store.json"
"""Two directories with the same one are the same store: a disk that was mounted again may be another device."""
_MAX_IDENTITY_BYTES = 4096
_MOUNTED = "is the disk mounted?"
_WITHOUT_READING = getattr(os, "O_PATH", os.O_RDONLY)
"""Linux: holding a directory needs no permission to list it."""


class HeldDirectory:
    """The directory that a path was when it was first used."""

    def __init__(self, path: Path, *, make: bool) -> None:
        """
        Args:
            make: create it if it is missing; otherwise every use is an error until it is there.
        Raises:
            StoreError: if it cannot be created.
        """
        self.path = path
        self._lock = threading.Lock()
        self._held: _Descriptor | None = None
        self._identity: bytes | None = None
        if make:
            durable.ensure_directory(path)
            self.require()

    def require(self) -> None:
        """Make sure that the path is the held directory. It costs one `stat`.

        Raises:
            StoreError: if it is another one, or gone; the next call tries again.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise StoreError(f"the store's directory {self.path} is gone ({error.strerror}): {_MOUNTED}") from error
        held = self._held
        if held is None or not os.path.samestat(status, held.status):
            with self._lock:
                self._hold()

    def _hold(self) -> None:
        """Hold what the path is now, if nothing was held before or if it is the same store."""
        try:
            found = _Descriptor(self.path)
            if self._held is not None and not self._same_store(self._held, found):
                raise StoreError(f"the store's directory {self.path} was replaced by another one: {_MOUNTED}")
        except OSError as error:
            raise StoreError(f"the store's directory {self.path} is unusable ({error.strerror}): {_MOUNTED}") from error
        self._held = found

    def _same_store(self, held: "_Descriptor", found: "_Descriptor") -> bool:
        if os.path.samestat(held.status, found.status):
            return True  # it is back, or another thread was faster
        self._identity = held.read(_IDENTITY) or self._identity
        identity = found.read(_IDENTITY)
        if self._identity is None and identity is None:
            return held.is_empty()  # nobody had begun a store there
        return identity == self._identity


class _Descriptor:
    """An open directory; closed with its last reference."""

    def __init__(self, path: Path) -> None:
        self._number = -1
        self._number = os.open(path, _WITHOUT_READING | os.O_DIRECTORY | os.O_CLOEXEC)
        self.status = os.fstat(self._number)

    def read(self, name: str) -> bytes | None:
        """Return the beginning of a file in it; None if there is none, or its disk is gone."""
        try:
            file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._number)
        except OSError:
            return None
        try:
            return os.read(file, _MAX_IDENTITY_BYTES)
        except OSError:
            return None
        finally:
            os.close(file)

    def is_empty(self) -> bool:
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._number)
        try:
            return not os.listdir(listed)  # noqa: PTH208  (of a descriptor)
        finally:
            os.close(listed)

    def __del__(self) -> None:
        if self._number >= 0:
            os.close(self._number)
