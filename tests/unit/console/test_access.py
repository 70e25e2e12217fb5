"""Accounts, sessions, the audit log, and where the console refuses to start."""

import asyncio
import io
import re
import stat

import pytest
from rich.console import Console

from lwd.cli.console_link import show_link
from lwd.cli.main import dispatch
from lwd.console.accounts import Accounts, Role
from lwd.console.audit import AuditLog
from lwd.console.links import Links
from lwd.console.password_worker import verify
from lwd.console.server import ConsoleConfig, run_console
from lwd.console.sessions import LIFETIME_S, Sessions
from lwd.errors import ConfigError
from lwd.recipes.run_directory import RunDirectory


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def role_of(accounts: Accounts, name: str, password: str) -> Role | None:
    async def matches(password_hash: str, given: str) -> bool:
        return verify(password_hash, given)

    return asyncio.run(accounts.role_of(name, password, matches))


def test_accounts_are_hashed_private_and_survive_a_restart(tmp_path):
    path = tmp_path / "console" / "accounts.json"
    Accounts(path).put("ada", Role.OPERATOR, "correct horse battery")
    assert "correct horse" not in path.read_text()
    assert "$argon2id$" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    accounts = Accounts(path)
    assert len(accounts) == 1
    assert role_of(accounts, "ada", "correct horse battery") is Role.OPERATOR
    assert role_of(accounts, "ada", "correct horse batterz") is None
    assert role_of(accounts, "bob", "correct horse battery") is None
    accounts.put("ada", Role.ADMIN, "another one entirely")
    assert role_of(Accounts(path), "ada", "another one entirely") is Role.ADMIN


@pytest.mark.parametrize(
    ("name", "password", "message"),
    [("../ada", "long enough it is", "name is"), ("", "long enough it is", "name is"), ("ada", "short", "has 5 char")],
)
def test_a_bad_account_is_refused(tmp_path, name, password, message):
    with pytest.raises(ConfigError, match=message):
        Accounts(tmp_path / "accounts.json").put(name, Role.VIEWER, password)


@pytest.mark.parametrize("content", ["{", '{"accounts": [{"name": "a"}]}', '{"users": []}'])
def test_damaged_accounts_are_named_and_never_taken_for_none(tmp_path, content):
    path = tmp_path / "accounts.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="is damaged"):
        Accounts(path)


def test_a_session_ends_with_its_time_or_its_logout():
    clock = Clock()
    sessions = Sessions(clock=clock)
    secret, session = sessions.begin("ada", Role.VIEWER)
    other, _ = sessions.begin("ada", Role.VIEWER)
    assert sessions.find(secret) is session
    assert sessions.find(None) is sessions.find("") is sessions.find("guess") is None
    sessions.end(other)
    assert sessions.find(other) is None
    clock.now_s += LIFETIME_S
    assert sessions.find(secret) is None


def test_the_audit_log_is_continued(tmp_path):
    path = tmp_path / "console" / "audit.jsonl"
    for who in ("ada", "bob"):
        log = AuditLog(path)
        log.append(who, "take", robot_id="robot-00")
        log.append(who, "release", robot_id="robot-00")
        log.close()
    with path.open("ab") as file:
        file.write(b'{"who": "cut off by a cra')
    log = AuditLog(path)
    log.append("ada", "login")
    assert [(line["who"], line["what"]) for line in log.tail(2)] == [("ada", "login"), ("bob", "release")]
    log.close()
    assert len(path.read_text().splitlines()) == 5


def test_others_can_reach_it_only_with_accounts_and_a_name(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(ConfigError, match="there are no accounts"):
        run_console(ConsoleConfig(run=run, host="0.0.0.0", origins=("https://console.example",)))
    with pytest.raises(ConfigError, match=r"origin is https://console\.example, under which others can reach it, and"):
        run_console(ConsoleConfig(run=run, origins=("http://localhost:8080", "https://console.example")))
    assert ConsoleConfig(run=run, origins=("http://localhost:8080", "http://[::1]:9")).reached_by == ""
    Accounts(tmp_path / "console" / "accounts.json").put("ada", Role.ADMIN, "correct horse battery")
    with pytest.raises(ConfigError, match="give --origin"):
        run_console(ConsoleConfig(run=run, host="0.0.0.0"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 0}, "port is 0"),
        ({"origins": ("console.example",)}, "is no origin"),
        ({"origins": ("https://console.example/",)}, "is no origin"),
        ({"origins": ("*",)}, "is no origin"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        ConsoleConfig(run=RunDirectory(tmp_path), **settings)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("::", False),
        ("robot.example", False),
    ],
)
def test_loopback_is_told_from_the_rest(tmp_path, host, loopback):
    assert ConsoleConfig(run=RunDirectory(tmp_path), host=host).is_loopback is loopback


def test_a_link_is_printed_at_a_terminal_only(tmp_path, capsys):
    """What goes into a file, such as a log, may be read by others."""
    assert dispatch(["console", "link", "--run", str(tmp_path), "--port", "9000"]) == 0
    (link,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"http://127\.0\.0\.1:9000/#/link/[\w-]{32}", link)
    assert Links(tmp_path).redeem(link.rpartition("/")[2])
    for terminal, words in ((True, "/#/link/"), (False, f"(`lwd console link --run {tmp_path} --port 9000` opens it)")):
        output = io.StringIO()
        show_link(tmp_path, 9000, Console(file=output, force_terminal=terminal))
        assert words in output.getvalue()
        assert ("/#/link/" in output.getvalue()) is terminal
    assert dispatch(["console", "link", "--run", str(tmp_path / "none")]) == 1
    assert f"there is no run {tmp_path / 'none'}" in capsys.readouterr().err
