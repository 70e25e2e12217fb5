"""`lwd console` as one starts it: a process of its own, on a free port of loopback."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from lwd.console.links import Links
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


def opened_by_link(run: Path, url: str) -> httpx.Client:
    """A browser that has opened a link to a console without accounts."""
    client = httpx.Client(base_url=url, timeout=30)
    token = Links(run).new(url).rpartition("/")[2]
    answer = client.post("/api/session", json={"token": token})
    assert answer.status_code == 200, answer.text
    client.headers["X-CSRF-Token"] = answer.json()["csrf"]
    return client


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
