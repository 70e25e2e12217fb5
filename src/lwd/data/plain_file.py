"""Reading small files of a run that anything may have happened to: no fifo blocks, no device or giant fills memory."""

import os
import stat
from pathlib import Path

from lwd.errors import ConfigError


def read_plain_file(path: Path, *, max_bytes: int) -> bytes | None:
    """Return a file's content; None if there is none.

    Args:
        max_bytes: of a longer file nothing is read.
    Raises:
        ConfigError: if it is no plain file, too long, or cannot be read.
    """
    try:
        # O_NONBLOCK: opening a fifo without a writer would wait for one.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check its permissions, or remove it") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is {_kind(found.st_mode)}, not a file: remove it")
        if found.st_size > max_bytes:
            raise ConfigError(
                f"{path} has {found.st_size} bytes, {max_bytes} at most are read: shorten it, or move it away"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
