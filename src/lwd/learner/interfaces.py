"""Network interfaces of this machine, and what a process listens on; from the kernel, without a library."""

import ipaddress
import os
import socket
import struct
import sys
from pathlib import Path

from lwd.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTENING = "0A"
_SIOCGIFADDR = 0x8915


def loopback_interface() -> str:
    """Return the name of the loopback interface.

    Raises:
        ConfigError: if there is none.
    """
    names = [name for _, name in socket.if_nameindex()]
    for name in ("lo", "lo0"):
        if name in names:
            return name
    raise ConfigError(f"no loopback interface among {names}: learner processes of one machine talk over it; set it up")


def interface_of(address: Address) -> str:
    """Return the name of the interface that has an address (several machines: Linux only).

    Raises:
        ConfigError: if there is none.
    """
    if address.is_loopback:
        return loopback_interface()
    if sys.platform == "linux":
        names = [name for _, name in socket.if_nameindex()]
        found = _ipv4_interface(address, names) if address.version == 4 else _ipv6_interface(address)
        if found is not None:
            return found
    raise ConfigError(f"no network interface has {address} as its first address: give the rendezvous another one")


def listening_addresses(pid: int | None = None) -> list[tuple[Address, int]]:
    """Return the addresses and TCP ports that a process listens on; None: this one. Nothing where there is no /proc."""
    process = Path("/proc") / ("self" if pid is None else str(pid))
    sockets = set()
    try:
        for descriptor in (process / "fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    except OSError:
        return []
    found = []
    for name in ("tcp", "tcp6"):
        try:
            rows = (process / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6, or the process has ended
        listening = (row for row in map(str.split, rows) if row[3] == _LISTENING and row[9] in sockets)
        found += [_address(row[1]) for row in listening]
    return found


def _address(text: str) -> tuple[Address, int]:
    """Read `0100007F:1F90`: words of 32 bits in the machine's byte order."""
    words, port = text.split(":")
    data = b"".join(struct.pack("=I", int(words[start : start + 8], 16)) for start in range(0, len(words), 8))
    return ipaddress.ip_address(data), int(port, 16)


def _ipv4_interface(address: Address, names: list[str]) -> str | None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in names:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
            except OSError:
                continue  # has no IPv4 address
            if answer[20:24] == address.packed:
                return name
    return None


def _ipv6_interface(address: Address) -> str | None:
    rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    return next((row[5] for row in rows if bytes.fromhex(row[0]) == address.packed), None)
