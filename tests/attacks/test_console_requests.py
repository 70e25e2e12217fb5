"""Requests that are too long, too slow, half, or too many: the console goes on, and neither memory nor log grow."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lwd.console.accounts import Accounts, Role

from ..served_console import console_process
from . import raw_http
from .conftest import Measured

MEGABYTE = 1 << 20


class Served:
    def __init__(self, run: Path, url: str, pid: int) -> None:
        self.run, self.url, self.pid = run, url, pid

    def answers_within(self, bound_s: float) -> float:
        begun_s = time.monotonic()
        assert httpx.get(f"{self.url}/api/session", timeout=60).status_code == 200
        taken_s = time.monotonic() - begun_s
        assert taken_s < bound_s
        return taken_s

    def log_bytes(self) -> int:
        return (self.run / "console.log").stat().st_size


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    run = tmp_path_factory.mktemp("run")
    Accounts(run / "console" / "accounts.json").put("ada", Role.ADMIN, "correct horse battery")
    with console_process(run) as (url, pid):
        yield Served(run, url, pid)


@pytest.mark.parametrize("path", ["/api/login", "/api/session", "/api/logout", "/api/episodes/r/x/label", "/nothing"])
def test_console_body_that_is_too_long_is_refused_before_it_is_read(served, path):
    with raw_http.connected(served.url) as connection:
        connection.sendall(raw_http.head(served.url, "POST", path, f"Content-Length: {600 * MEGABYTE}"))
        assert raw_http.status(connection) == 413
        assert raw_http.seconds_until_closed(connection) < 10


def test_console_body_of_600_mb_takes_no_memory(served, measured: Measured):
    before = raw_http.resident_bytes(served.pid)
    for lines in ((f"Content-Length: {600 * MEGABYTE}",), ("Transfer-Encoding: chunked",)):
        with raw_http.connected(served.url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(raw_http.head(served.url, "POST", "/api/logout", *lines))
            for _ in range(600):
                part = bytes(MEGABYTE)
                connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if "chunked" in lines[0] else part)
    grown = raw_http.resident_bytes(served.pid) - before
    measured("bodies of 600 MB", f"{grown / 1e6:.0f} MB more memory", "32 MB")
    assert grown < 32 * MEGABYTE
    served.answers_within(20)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"name": "ada", "password": [[number] for number in range(1000)]}),
        json.dumps({f"field-{number}": number for number in range(300)}),
        "[" * 8000,
        '{"name":' * 1000,
        json.dumps({"name": "x" * 4000, "password": "y" * 4000}),
        "\x00" * 8000,
        "",
    ],
)
def test_console_body_that_is_wrong_is_not_given_back(served, body):
    answer = httpx.post(
        f"{served.url}/api/login", content=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code in (400, 422)
    assert isinstance(answer.json()["detail"], str)
    assert len(answer.content) < 700


def test_console_json_of_a_megabyte_stops_nobody(served, measured: Measured):
    body = json.dumps({"name": "ada", "password": [[[]] for _ in range(220_000)]})
    assert 1.2 * MEGABYTE < len(body) < 1.4 * MEGABYTE
    begun_s = time.monotonic()
    for _ in range(3):
        with contextlib.suppress(httpx.TransportError):
            assert httpx.post(f"{served.url}/api/login", content=body, timeout=60).status_code == 413
    each_s = (time.monotonic() - begun_s) / 3
    measured("1.3 MB of JSON", f"answered after {1000 * each_s:.0f} ms", "2 s")
    assert each_s < 2


@pytest.mark.attacks
def test_console_half_requests_leave_room_for_whole_ones_and_the_log_as_it_is(served, measured: Measured):
    before = served.log_bytes()
    with contextlib.ExitStack() as opened:
        for _ in range(1024):
            connection = opened.enter_context(raw_http.connected(served.url))
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /api/session HTTP/1.1\r\nHost: ")
        taken_s = max(served.answers_within(20) for _ in range(5))
        files = len(list(Path(f"/proc/{served.pid}/fd").iterdir()))
    grown = served.log_bytes() - before
    measured("1,024 half requests", f"answers within {1000 * taken_s:.0f} ms, {files} files open, log + {grown} B", "")
    assert files < 64 + 60
    assert grown < 4096


def test_console_log_is_not_filled_by_requests_that_are_none(served, measured: Measured):
    before = served.log_bytes()
    for _ in range(300):
        with raw_http.connected(served.url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
            raw_http.seconds_until_closed(connection)
    grown = served.log_bytes() - before
    measured("300 requests that are none", f"log + {grown} B", "4 kB")
    assert grown < 4096
    served.answers_within(20)


@pytest.mark.attacks
def test_console_request_flood_waits_its_turn(served, measured: Measured):
    """On 16 connections, ten requests at a time, as fast as they are answered."""
    seconds = 6.0
    end_s = time.monotonic() + seconds
    request = f"GET /api/session HTTP/1.1\r\nHost: {urlsplit(served.url).netloc}\r\n\r\n".encode()

    def flood() -> int:
        answers = 0
        while time.monotonic() < end_s:
            with raw_http.connected(served.url) as connection, contextlib.suppress(OSError):
                connection.settimeout(1)
                connection.sendall(10 * request)
                while time.monotonic() < end_s and (data := connection.recv(65536)):
                    answers += data.count(b"HTTP/1.1 200")
        return answers

    with ThreadPoolExecutor(16) as threads:
        answers = sum(threads.map(lambda _: flood(), range(16)))
    measured("requests as fast as can be", f"{answers / seconds:.0f} answered a second", "100")
    assert 0 < answers < 100 * seconds


@pytest.mark.attacks
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 0),
        (b"POST /api/login HTTP/1.1\r\nHost: ", 0),
        (None, 408),
    ],
)
def test_console_slow_requests_are_ended(served, measured: Measured, sent, status):
    """A byte a second; a head that does not end, and a body (None)."""
    slow = raw_http.head(served.url, "POST", "/api/login", "Content-Length: 100") if sent is None else sent
    with raw_http.connected(served.url) as connection:
        connection.sendall(slow)
        begun_s = time.monotonic()
        connection.settimeout(1.0)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun_s < 60:
                if sent != b"":
                    connection.sendall(b"x")
                try:
                    if not (more := connection.recv(4096)):
                        break
                    answer += more
                except TimeoutError:
                    continue
        taken_s = time.monotonic() - begun_s
    measured(f"a request of a byte a second ({status or 'head'})", f"closed after {taken_s:.1f} s", "10 to 20 s")
    assert (int(answer.split(b" ", 2)[1]) if answer else 0) == status
    assert 8 < taken_s < 20
