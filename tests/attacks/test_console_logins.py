"""What somebody tries who is not logged in to the console, or not as whom they would like to be."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from lwd.console.accounts import Accounts, Role
from lwd.console.links import Links

from ..served_console import opened_by_link, served_console
from .conftest import Measured

PASSWORD = "correct horse battery"
NAMES = ("ada", "bob", "carol", "dora")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A console with accounts."""
    run = tmp_path_factory.mktemp("run")
    accounts = Accounts(run / "console" / "accounts.json")
    for name in NAMES:
        accounts.put(name, Role.ADMIN, PASSWORD)
    with served_console(run) as url:
        yield run, url


@pytest.fixture(scope="module")
def linked(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A console without accounts, on loopback."""
    run = tmp_path_factory.mktemp("run")
    with served_console(run) as url:
        yield run, url


def guess(url: str, name: str, count: int, *, address: str = "127.0.0.1") -> Counter[int]:
    """Guess a password many times at once; return how often each status came."""

    async def all_at_once() -> Counter[int]:
        transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_connections=count))
        async with httpx.AsyncClient(base_url=url, transport=transport, timeout=60) as client:
            bodies = ({"name": name, "password": f"a wrong password {number}"} for number in range(count))
            answers = await asyncio.gather(*(client.post("/api/login", json=body) for body in bodies))
        return Counter(answer.status_code for answer in answers)

    return asyncio.run(all_at_once())


def log_in(client: httpx.Client, name: str) -> int:
    return client.post("/api/login", json={"name": name, "password": PASSWORD}).status_code


def test_console_guesses_at_the_same_time_are_counted_before_any_is_checked(guarded, measured: Measured):
    _, url = guarded
    found = guess(url, "ada", 40)
    measured("40 guesses at once", f"{found[401]} looked at, {found[429]} refused", "5 looked at")
    assert found[401] <= 5
    assert found[401] + found[429] == 40
    assert guess(url, "ada", 10)[401] + found[401] <= 5


@pytest.mark.attacks
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_console_nobody_locks_a_known_browser_out(guarded):
    """Guesses from the same address; the browser that has logged in before still gets in, another address, too."""
    _, url = guarded
    with httpx.Client(base_url=url, timeout=60) as known:
        assert log_in(known, "bob") == 200
        while guess(url, "bob", 3)[401]:
            pass
        with httpx.Client(base_url=url, timeout=60) as unknown:
            assert log_in(unknown, "bob") == 429
        assert [log_in(known, "bob") for _ in range(7)] == [200] * 7
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(local_address="127.0.0.9"), timeout=60) as away:
            assert log_in(away, "bob") == 200
        # That it is known helps nobody to guess with it.
        wrong = {"name": "bob", "password": "a wrong password"}
        assert [known.post("/api/login", json=wrong).status_code for _ in range(7)] == [401] * 5 + [429] * 2
        # Nor is it known to others' accounts.
        while guess(url, "carol", 3)[401]:
            pass
        assert log_in(known, "carol") == 429


def test_console_unknown_names_are_answered_as_known_ones(guarded, measured: Measured):
    _, url = guarded
    times: dict[str, list[float]] = {"dora": [], "nobody": []}
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(4):
            for name, taken in times.items():
                begun_s = time.monotonic()
                answer = client.post("/api/login", json={"name": name, "password": "a wrong password"})
                taken.append(time.monotonic() - begun_s)
                assert (answer.status_code, answer.json()["detail"]) == (401, "name or password is wrong")
    shortest = {name: min(taken) for name, taken in times.items()}
    measured("time of an unknown name", f"{shortest['nobody'] / shortest['dora']:.2f} of a known one's", "1/2 to 2")
    assert 0.5 < shortest["nobody"] / shortest["dora"] < 2


def test_console_on_loopback_without_accounts_opens_to_nobody_without_a_link(linked):
    run, url = linked
    with httpx.Client(base_url=url) as user:
        assert user.get("/api/session").json() == {"name": "", "role": "", "csrf": "", "login": "link"}
        for token in ("", "guess", "../audit.jsonl"):
            assert user.post("/api/session", json={"token": token}).status_code == 401
        for path in ("fleet", "learning", "episodes", "audit", "export", "scene"):
            assert user.get(f"/api/{path}").status_code == 401
        assert not user.cookies
        token = Links(run).new(url).rpartition("/")[2]
        assert user.post("/api/session", json={"token": token}).json()["role"] == "admin"
        assert user.get("/api/audit").status_code == 200
    with httpx.Client(base_url=url) as thief:
        again = thief.post("/api/session", json={"token": token})
        assert again.status_code == 401
        assert "`lwd console link --run RUN` prints a new one" in again.json()["detail"]
    assert token not in (run / "console.log").read_text()
    assert "lwd console link --run" in (run / "console.log").read_text()


def test_console_cookie_alone_opens_nothing_that_changes_anything(linked):
    """Browsers send cookies to every port of a machine: a page of another user there sees this one's."""
    run, url = linked
    live = f"{url.replace('http', 'ws')}/api/live"
    port = url.rpartition(":")[2]
    with opened_by_link(run, url) as browser:
        assert list(browser.cookies) == [f"lwd_session_{port}"]
        csrf, cookie = (
            browser.headers["X-CSRF-Token"],
            {"Cookie": f"lwd_session_{port}={browser.cookies[f'lwd_session_{port}']}"},
        )
        assert browser.get("/api/session").json()["name"] == "local"
        for session in (
            httpx.get(f"{url}/api/session", headers=cookie),
            httpx.get(f"{url}/api/session", headers={**cookie, "X-CSRF-Token": "guess"}),
        ):
            assert session.json() == {"name": "", "role": "", "csrf": "", "login": "link"}
        assert httpx.post(f"{url}/api/session", json={}, headers=cookie).status_code == 401
        assert httpx.post(f"{url}/api/logout", headers=cookie).status_code == 403
        for offered in (None, ["lwd.live"], ["lwd.live", "csrf.guess"], ["lwd.live", "csrf."]):
            with connect(live, origin=url, additional_headers=cookie, subprotocols=offered) as socket:
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv()
                assert closed.value.rcvd.code == 4401
        offered = ["lwd.live", f"csrf.{csrf}"]
        with connect(live, origin=url, additional_headers=cookie, subprotocols=offered) as socket:
            assert '"kind":"hello"' in socket.recv().replace(" ", "")


@pytest.mark.attacks
def test_console_session_requests_throw_nobody_out(linked, measured: Measured):
    run, url = linked
    with opened_by_link(run, url) as driver, httpx.Client(base_url=url) as stranger:
        answers = Counter(stranger.get("/api/session").json()["name"] for _ in range(1001))
        answers += Counter(stranger.post("/api/session", json={}).status_code for _ in range(200))
        assert answers == {"": 1001, 401: 200}
        assert driver.get("/api/fleet").status_code == 200
    measured("1,201 session requests", "0 sessions thrown out", "0")
