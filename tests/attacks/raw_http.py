"""What no HTTP library sends: half requests, bodies that do not end, and how a server takes it."""

import contextlib
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit


def connected(url: str, timeout_s: float = 30.0) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout_s)


def head(url: str, method: str, path: str, *lines: str) -> bytes:
    host = f"Host: {urlsplit(url).netloc}"
    return "\r\n".join((f"{method} {path} HTTP/1.1", host, "Content-Type: application/json", *lines, "", "")).encode()


def status(connection: socket.socket) -> int:
    """Return the status of the answer; 0 if the server closed without one."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while b"\r\n" not in data and (more := connection.recv(4096)):
            data += more
    return int(data.split(b" ", 2)[1]) if data else 0


def seconds_until_closed(connection: socket.socket) -> float:
    begun_s = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - begun_s


def resident_bytes(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024
