"""Who is at the other end of a loopback connection, and who holds a port, as far as Linux tells (/proc/net/tcp)."""

import contextlib
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED, _LISTEN = "01", "0A"


@dataclass(frozen=True, kw_only=True)
class _Socket:
    local: tuple[str, int]
    """Address in the kernel's hexadecimal, and port."""
    remote: tuple[str, int]
    state: str
    uid: int
    inode: int


def peer_uid(local_port: int, peer_port: int) -> int | None:
    """Return the user whose process has accepted our loopback connection; None if this system does not tell.

    Args:
        local_port: our end's.
        peer_port: the other end's.
    Raises:
        LookupError: if nobody's established connection is there.
    """
    if not _TABLES[0].exists():
        return None
    for each in _sockets():
        # Established only: of what was closed the kernel says that it is root's.
        if (
            (each.local[1], each.remote[1], each.state) == (peer_port, local_port, _ESTABLISHED)
            and _is_loopback(each.local[0])
            and _is_loopback(each.remote[0])
        ):
            return each.uid
    raise LookupError(f"no process has the other end of port {local_port}")


def listens(port: int, pid: int) -> bool | None:
    """Whether a process has the socket that listens on a loopback port; None if this system does not tell."""
    if not _TABLES[0].exists():
        return None
    inodes = {each.inode for each in _listening(port)}
    return bool(inodes & _inodes_of(pid))


def holder(port: int) -> str:
    """Say who listens on a port: process and user, or only the user; empty if that cannot be told."""
    if not _TABLES[0].exists():
        return ""
    found = list(_listening(port))
    inodes = {each.inode for each in found}
    for process in Path("/proc").iterdir() if found else ():
        if process.name.isdigit() and inodes & _inodes_of(int(process.name)):
            with contextlib.suppress(OSError):
                command = (process / "comm").read_text().strip()
                return f"process {process.name} ({command}) of user {_user(found[0].uid)}"
    return f"a process of user {_user(found[0].uid)}" if found else ""


def _listening(port: int) -> Iterator[_Socket]:
    return (each for each in _sockets() if each.state == _LISTEN and each.local[1] == port)


def _sockets() -> Iterator[_Socket]:
    for table in _TABLES:
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                yield _Socket(
                    local=_address(fields[1]),
                    remote=_address(fields[2]),
                    state=fields[3],
                    uid=int(fields[7]),
                    inode=int(fields[9]),
                )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port, 16)


def _is_loopback(host: str) -> bool:
    """127.0.0.0/8, alone or inside IPv6, or ::1; words are in the machine's byte order, little-endian here."""
    return host.endswith("7F") if len(host) == 8 else host == f"{1 << 24:032X}" or host[24:].endswith("7F")


def _inodes_of(pid: int) -> set[int]:
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
