"""How attempts to log in are counted, which browsers are known, and how many sessions one may have."""

import asyncio
import contextlib
import stat

import pytest
from fastapi import HTTPException

from lwd.console.accounts import Accounts, Role
from lwd.console.command_rate import CommandRate
from lwd.console.devices import DEVICE_S, Devices
from lwd.console.links import Links, link_to
from lwd.console.passwords import PasswordChecks
from lwd.console.peers import network_of
from lwd.console.sessions import EACH, Sessions
from lwd.console.throttle import FORGET_S, LoginThrottle
from lwd.console.turns import Pace
from lwd.errors import ConfigError


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_five_attempts_are_free_then_pauses_grow_and_are_forgotten():
    clock = Clock()
    throttle = LoginThrottle(clock=clock)
    assert [throttle.attempt("ada", "10.0.0.1") for _ in range(6)] == [0, 0, 0, 0, 0, 30]
    assert throttle.attempt("bob", "10.0.0.1") == throttle.attempt("ada", "10.0.0.2") == 0
    for pause_s in (30, 60, 120, 240, 480, 900, 900):
        assert throttle.attempt("ada", "10.0.0.1") == pause_s
        clock.now_s += pause_s
        assert throttle.attempt("ada", "10.0.0.1") == 0
    clock.now_s += FORGET_S
    assert [throttle.attempt("ada", "10.0.0.1") for _ in range(5)] == [0] * 5


def test_an_attempt_with_the_right_password_does_not_count():
    throttle = LoginThrottle(clock=Clock())
    for _ in range(20):
        assert throttle.attempt("ada", "10.0.0.1") == 0
        throttle.take_back("ada", "10.0.0.1")


def test_guesses_from_many_peers_slow_a_name_down_but_no_browser_that_is_known():
    clock = Clock()
    throttle = LoginThrottle(clock=clock)
    tried = [throttle.attempt("ada", f"10.0.{number // 5}.1") for number in range(200)]
    assert (tried.count(0), throttle.attempt("ada", "10.1.0.1")) == (50, 30)
    assert throttle.attempt("ada", "10.1.0.1", "the browser of hers") == 0
    assert throttle.attempt("bob", "10.1.0.1") == 0
    clock.now_s += 30
    assert throttle.attempt("ada", "10.1.0.1") == 0


def test_counts_are_not_forgotten_when_many_other_names_are_tried():
    throttle = LoginThrottle(clock=Clock())
    for _ in range(5):
        throttle.attempt("ada", "10.0.0.1")
    for number in range(20_000):
        throttle.attempt(f"name-{number}", "10.0.0.1")
    assert throttle.attempt("ada", "10.0.0.1") == 30
    assert throttle.attempt("bob", "10.0.0.1") == 0


@pytest.mark.parametrize(
    ("peer", "same"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_counts_as_one_peer(peer, same):
    assert network_of(peer) == same


def test_a_browser_is_known_for_one_account_until_its_time_and_by_the_key_of_the_run(tmp_path):
    clock = Clock()
    devices = Devices(tmp_path / "console" / "devices.key", clock=clock)
    assert stat.S_IMODE((tmp_path / "console" / "devices.key").stat().st_mode) == 0o600
    cookie = devices.issue("ada")
    device = devices.device_of(cookie, "ada")
    assert device
    assert device == Devices(tmp_path / "console" / "devices.key", clock=clock).device_of(cookie, "ada")
    device_id, until, signature = cookie.split(".")
    forged = ("", "a", "a.b", "a.b.c", f"{device_id}.{until}9.{signature}", f"x{cookie}", f"{device_id}.²2.{signature}")
    for other in (None, *forged, f"{device_id}.{'9' * 400}.{signature}"):
        assert devices.device_of(other, "ada") is None
    assert devices.device_of(cookie, "bob") is None
    assert Devices(tmp_path / "other.key", clock=clock).device_of(cookie, "ada") is None
    clock.now_s += DEVICE_S
    assert devices.device_of(cookie, "ada") is None


def test_sessions_of_one_person_and_peer_push_out_their_own_idle_ones_only():
    clock = Clock()
    sessions = Sessions(clock=clock)
    other, _ = sessions.begin("ada", Role.ADMIN, "10.0.0.2")
    driving, _ = sessions.begin("local", Role.ADMIN, "10.0.0.1")
    with sessions.tab(driving) as may_open:
        assert may_open
        idle = []
        for _ in range(1001):
            clock.now_s += 1
            idle.append(sessions.begin("local", Role.ADMIN, "10.0.0.1")[0])
        assert sessions.find(driving)
        assert sessions.find(other)
        assert [bool(sessions.find(secret)) for secret in idle] == [False] * (1001 - EACH + 1) + [True] * (EACH - 1)
    # The one that was used last stays.
    sessions.find(idle[-5])
    clock.now_s += 1
    for _ in range(EACH - 1):
        sessions.begin("local", Role.ADMIN, "10.0.0.1")
    assert sessions.find(idle[-4]) is None


def test_nobody_who_drives_is_thrown_out_when_all_sessions_are_in_use():
    sessions = Sessions(clock=Clock())
    tabs = []
    for number in range(2000):
        begun = sessions.begin("ada", Role.ADMIN, f"peer-{number // 4}")
        if begun is None:
            break
        tabs.append(sessions.tab(begun[0]))
        assert tabs[-1].__enter__()
    assert len(tabs) == 1024
    assert sessions.begin("bob", Role.ADMIN, "elsewhere") is None
    tabs[7].__exit__(None, None, None)
    assert sessions.begin("bob", Role.ADMIN, "elsewhere") is not None


def test_a_session_has_sixteen_tabs_at_most():
    sessions = Sessions(clock=Clock())
    secret, _ = sessions.begin("ada", Role.VIEWER)
    with contextlib.ExitStack() as tabs:
        assert [tabs.enter_context(sessions.tab(secret)) for _ in range(18)] == [True] * 16 + [False] * 2
    with sessions.tab("no such session") as may_open:
        assert not may_open


@pytest.mark.parametrize(
    "password", ["aaaaaaaaaa", "password123", "Password1234", "1234567890", "qwertyuiop", "ada-ada-ada"]
)
def test_a_password_that_is_easily_guessed_is_refused(tmp_path, password):
    with pytest.raises(ConfigError, match=r"the password of ada is too weak \(.+\): use four words") as refused:
        Accounts(tmp_path / "accounts.json").put("ada", Role.VIEWER, password)
    assert password not in str(refused.value)
    assert not (tmp_path / "accounts.json").exists()


@pytest.mark.parametrize(
    "password", ["correct horse battery", "xK9#mQ2$vL", "ä" * 3 + "trombone under seventeen bridges" * 9]
)
def test_a_password_that_is_not_easily_guessed_is_taken(tmp_path, password):
    Accounts(tmp_path / "accounts.json").put("ada", Role.VIEWER, password)
    assert Accounts(tmp_path / "accounts.json").has_passwords


def test_a_link_opens_once_outlasts_the_console_and_is_for_who_may_read_the_run(tmp_path):
    tokens = [Links(tmp_path).new("http://127.0.0.1:8787").rpartition("/")[2] for _ in range(18)]
    directory = tmp_path / "console" / "links"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not any(token in file.name for token in tokens for file in directory.iterdir())
    links = Links(tmp_path)
    assert not any(map(links.redeem, ("", "guess", ".", "..", "../../accounts.json", "\x00", *tokens[:2])))
    assert [links.redeem(tokens[-1]) for _ in range(3)] == [True, False, False]
    assert Links(tmp_path).redeem(tokens[2])
    assert link_to(tmp_path, 80).startswith("http://127.0.0.1:80/#/link/")
    Accounts(tmp_path / "console" / "accounts.json").put("ada", Role.ADMIN, "correct horse battery")
    assert link_to(tmp_path, 80) == "http://127.0.0.1:80"


def test_commands_are_limited_to_a_rate():
    clock = Clock()
    rate = CommandRate(per_s=10, at_once=3, clock=clock)
    assert [rate.allows() for _ in range(5)] == [True] * 3 + [False] * 2
    clock.now_s += 0.1
    assert [rate.allows() for _ in range(2)] == [True, False]


def test_requests_have_a_pace_by_key():
    clock = Clock()
    pace = Pace(per_s=10, at_once=3, clock=clock)
    waits = []
    for _ in range(6):
        waits.append(round(pace.wait_s("a"), 6))
        pace.take("a")
    assert waits == [0, 0, 0, 0, 0.1, 0.2]
    assert pace.wait_s("b") == 0
    clock.now_s += 10
    assert pace.wait_s("a") == 0
    for number in range(10_000):
        pace.take(str(number))
        clock.now_s += 1
    assert len(pace._next_s) < 5000


def test_password_checks_are_bounded_by_peer_and_known_browsers_go_first():
    """A real worker: one wrong hash, one right; then more at once than may wait."""
    from argon2 import PasswordHasher

    right = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse battery")

    async def ask(checks: PasswordChecks, order: list[str], peer: str, known: bool) -> bool | int:
        try:
            found = await checks.matches(right, "correct horse battery", peer=peer, known=known)
        except HTTPException as error:
            return error.status_code if int(error.headers["Retry-After"]) >= 1 else 0
        order.append(peer)
        return found

    async def all_at_once() -> None:
        checks = PasswordChecks()
        order: list[str] = []
        try:
            assert not await checks.matches("no hash", "x", peer="a", known=False)
            assert not await checks.matches(right, "x", peer="a", known=False)
            strangers = [ask(checks, order, "stranger", False) for _ in range(10)]
            found = await asyncio.gather(*strangers, ask(checks, order, "browser of hers", True))
            assert found == [True] * 4 + [429] * 6 + [True]
            # One was under way already.
            assert order.index("browser of hers") <= 1
            many = [ask(checks, order, f"peer-{number}", False) for number in range(40)]
            assert (await asyncio.gather(*many)).count(429) == 40 - 24
        finally:
            await checks.close()

    asyncio.run(all_at_once())
