"""`lwd console` as one starts it: a process of its own, on a free port of loopback."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from lwd.console.links import Links
from lwd.fleet.process import spawn, stop

from .nats_servers import free_port


@contextmanager
def served_console(run: Path, *options: str, port: int | None = None) -> Iterator[str]:
    """Serve the console of a run; give its URL."""
    with console_process(run, *options, port=port) as (url, _):
        yield url


@contextmanager
def console_process(run: Path, *options: str, port: int | None = None) -> Iterator[tuple[str, int]]:
    """Serve the console of a run; give its URL and process."""
    port = port or free_port()
    log = run / "console.log"
    process = spawn([sys.executable, "-m", "lwd", "console", "--run", str(run), "--port", str(port), *options], log=log)
    try:
        deadline_s = time.monotonic() + 120
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        stop(process)


@contextmanager
def opened_by_link(run: Path, url: str) -> Iterator[httpx.Client]:
    """A browser that has opened a link to a console without accounts."""
    with httpx.Client(base_url=url, timeout=30) as client:
        open_link(client, run)
        yield client


def open_link(client: Any, run: Path) -> None:
    """Log a client (also of the interface's own tests) in to a console without accounts."""
    token = Links(run).new("").rpartition("/")[2]
    answer = client.post("/api/session", json={"token": token})
    assert answer.status_code == 200, answer.text
    assert answer.json()["role"] == "admin"
    client.headers["X-CSRF-Token"] = answer.json()["csrf"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
