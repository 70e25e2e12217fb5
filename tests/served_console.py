"""`lwd console` as one starts it: a process of its own, on a free port of loopback."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lwd.fleet.process import spawn, stop

from .nats_servers import free_port


@contextmanager
def served_console(run: Path, *options: str, port: int | None = None) -> Iterator[str]:
    """Serve the console of a run; give its URL."""
    port = port or free_port()
    log = run / "console.log"
    process = spawn([sys.executable, "-m", "lwd", "console", "--run", str(run), "--port", str(port), *options], log=log)
    try:
        deadline_s = time.monotonic() + 120
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
