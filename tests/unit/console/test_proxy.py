"""Login by a proxy's header: whose header counts, what a name may do, and when a session ends."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lwd.cli.main import dispatch
from lwd.console.accounts import Accounts, Role
from lwd.console.app import AppConfig, create_app
from lwd.console.proxy import SECRET_HEADER, ProxyLogin
from lwd.console.server import ConsoleConfig, accounts_of
from lwd.errors import ConfigError
from lwd.fleet.coordinator_process import bus_of
from lwd.recipes.run_directory import RunDirectory

from ...nats_servers import free_port
from ...served_console import served_console
from .test_access import role_of

ORIGIN = "https://console.example"
LIVE = "wss://console.example/api/live"
HEADER = "Remote-User"
SECRET = "0123456789abcdef" * 2
HEADER_OPTIONS = ("--proxy-header", HEADER, "--proxy-secret-file")
OF_PROXY = {SECRET_HEADER: SECRET}


class Console:
    """A console without a fleet, and how one reaches it."""

    def __init__(self, run: Path, **settings: object) -> None:
        config = AppConfig(
            run=RunDirectory(run),
            bus=lambda: bus_of(run, None),
            origins=frozenset({ORIGIN}),
            accounts=accounts_of(RunDirectory(run)),
            proxy=ProxyLogin(**{"header": HEADER, "secret": SECRET, **settings}),
        )
        self.app = create_app(config)
        self.proxy = self.reach("127.0.0.1")

    def reach(self, peer: str) -> TestClient:
        """A browser (with its own cookies) whose requests come from an address, by somebody who has the secret."""
        return TestClient(self.app, base_url=ORIGIN, client=(peer, 50_000), headers=OF_PROXY)


@pytest.fixture
def run(tmp_path) -> Path:
    accounts = accounts_of(RunDirectory(tmp_path))
    for role in Role:
        accounts.put(role.label, role, None)
    return tmp_path


@pytest.fixture
def console(run) -> Iterator[Console]:
    console = Console(run)
    with console.proxy:
        yield console


def ask(browser: TestClient, *names: str, path: str = "/api/session") -> httpx.Response:
    headers = [(HEADER, name) for name in names]
    if path != "/api/session":
        return browser.get(path, headers=headers)
    answer = browser.post(path, json={}, headers=headers)
    if answer.status_code == 200:
        browser.csrf = answer.json()["csrf"]
    return answer


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def live(browser: TestClient, **headers: str) -> str:
    """Connect to the WebSocket; return whom it greets."""
    offered = ["lwd.live", f"csrf.{getattr(browser, 'csrf', '')}"]
    with browser.websocket_connect(LIVE, subprotocols=offered, headers={"origin": ORIGIN, **headers}) as tab:
        return tab.receive_json()["name"]


def closed_with(browser: TestClient, **headers: str) -> int:
    with pytest.raises(WebSocketDisconnect) as refused:
        live(browser, **headers)
    return refused.value.code


def audit(console: Console) -> list[tuple[str, str]]:
    browser = console.reach("127.0.0.1")
    assert ask(browser, "admin").status_code == 200
    lines = ask(browser, "admin", path="/api/audit").json()
    assert (lines[0]["who"], lines[0]["what"]) == ("admin", "login")
    return [(line["who"], line["what"]) for line in reversed(lines[1:])]


@pytest.mark.parametrize("role", list(Role))
def test_whom_the_proxy_names_is_logged_in_with_the_role_of_their_account(console, role):
    answer = ask(console.proxy, role.label)
    assert answer.json().items() >= {"name": role.label, "role": role.label, "login": "proxy"}.items()
    assert answer.json()["csrf"] == ask(console.proxy, role.label).json()["csrf"]
    assert ask(console.proxy, role.label, path="/api/fleet").status_code == 200
    assert ask(console.proxy, role.label, path="/api/audit").status_code == (200 if role is Role.ADMIN else 403)
    assert live(console.proxy, **{HEADER: role.label}) == role.label
    assert audit(console) == [(role.label, "login")]


def test_no_session_begins_but_by_asking_for_it(console):
    assert sentence(ask(console.proxy, "viewer", path="/api/fleet"), 401) == "log in first"
    assert closed_with(console.proxy, **{HEADER: "viewer"}) == 4401


@pytest.mark.parametrize("peer", ["10.0.0.9", "::2", "::ffff:10.0.0.9", "127.0.0.2", "no address", ""])
@pytest.mark.parametrize("name", ["admin", "", "../x"])
def test_the_header_counts_from_nobody_but_the_proxy(console, peer, name):
    stranger = console.reach(peer)
    ask(console.proxy, "admin")
    stranger.cookies = console.proxy.cookies
    for path in ("/api/session", "/api/fleet", "/", "/assets/console.js", "/openapi.json"):
        assert f"only from the proxy, not from {peer}:" in sentence(ask(stranger, name, path=path), 403)
    assert closed_with(stranger, **{HEADER: name}) == 4403
    refused = stranger.post("/api/login", json={"name": "admin", "password": "?"}, headers={HEADER: name})
    assert "only from the proxy" in sentence(refused, 403)


def test_forged_headers_are_in_the_audit_log_but_do_not_fill_it(console):
    for _ in range(8):
        ask(console.reach("10.0.0.9"), "admin")
    assert audit(console) == [("10.0.0.9", "login refused")]


@pytest.mark.parametrize("secrets", [(), ("",), (SECRET[:-1],), (SECRET, SECRET), ("", SECRET)])
def test_the_header_counts_only_with_the_proxys_secret(console, secrets):
    """Everybody on the proxy's machine has its address."""
    user = TestClient(console.app, base_url=ORIGIN, client=("127.0.0.1", 50_000))
    ask(console.proxy, "admin")
    user.cookies = console.proxy.cookies
    headers = [(HEADER, "admin"), *((SECRET_HEADER, each) for each in secrets)]
    for answer in (user.get("/api/audit", headers=headers), user.post("/api/session", json={}, headers=headers)):
        assert f"only with the proxy's secret in {SECRET_HEADER}" in sentence(answer, 403)


@pytest.mark.parametrize(
    ("peers", "peer"),
    [
        (("10.0.0.0/24",), "10.0.0.9"),
        (("192.0.2.1", "10.0.0.9"), "10.0.0.9"),
        (("10.0.0.9",), "::ffff:10.0.0.9"),
        (("fd00::/64",), "fd00::7"),
    ],
)
def test_the_proxy_is_known_by_address_or_network(run, peers, peer):
    console = Console(run, peers=peers)
    assert ask(console.reach(peer), "admin").json()["role"] == "admin"
    assert "only from the proxy" in sentence(ask(console.proxy, "admin"), 403)


@pytest.mark.parametrize(
    ("names", "status", "words"),
    [
        ((), 401, "names nobody: log in at the proxy"),
        (("",), 401, "names nobody: log in at the proxy"),
        (("viewer", "admin"), 403, "came 2 times: the proxy must remove what browsers send"),
        (("admin", "admin"), 403, "came 2 times"),
        (("", "admin"), 403, "came 2 times"),
        (("viewer, admin",), 403, "will not do: names are letters"),
        (("ada@example.com",), 403, "will not do"),
        (("../admin",), 403, "will not do"),
        (("\u00e5da".encode("latin-1").decode("latin-1"),), 403, "will not do"),
        (("a" * 129,), 403, "will not do"),
    ],
)
def test_a_header_that_names_nobody_for_certain_is_refused_and_ends_the_session(console, names, status, words):
    ask(console.proxy, "admin")
    headers = [(HEADER.encode(), name.encode("latin-1")) for name in names]
    assert words in sentence(console.proxy.get("/api/fleet", headers=headers), status)
    assert words in sentence(console.proxy.post("/api/session", json={}, headers=headers), status)
    # The page itself is shown: it says what is wrong.
    assert console.proxy.get("/", headers=headers).status_code == 200
    assert sentence(ask(console.proxy, "admin", path="/api/fleet"), 401) == "log in first"
    assert audit(console) == [("admin", "login"), ("admin", "logout")]


def test_a_name_without_an_account_is_told_which_command_adds_it(console, run):
    words = sentence(ask(console.proxy, "ada"), 403)
    assert sentence(ask(console.proxy, "ada", path="/api/fleet"), 401) == "log in first"
    command = re.search("`lwd (.*)`", words)[1]
    assert audit(console) == [("ada", "login refused")]
    # It asks for no password: reading one would fail here.
    assert dispatch(shlex.split(command.replace("RUN", str(run)))) == 0
    run.joinpath("console", "audit.jsonl").unlink()
    assert ask(Console(run).proxy, "ada").json()["role"] == "viewer"


def test_a_name_without_an_account_gets_the_role_for_such_names(run):
    console = Console(run, role=Role.VIEWER)
    assert ask(console.reach("127.0.0.1"), "ada").json()["role"] == "viewer"
    assert ask(console.reach("127.0.0.1"), "operator").json()["role"] == "operator"
    console = Console(run, role=Role.ADMIN)
    assert ask(console.reach("127.0.0.1"), "viewer").json()["role"] == "viewer"


def test_a_session_ends_when_the_proxy_names_somebody_else(console):
    csrf = ask(console.proxy, "admin").json()["csrf"]
    before = dict(console.proxy.cookies)
    answer = ask(console.proxy, "viewer").json()
    assert (answer["name"], answer["role"]) == ("viewer", "viewer")
    assert answer["csrf"] != csrf
    console.proxy.cookies = before
    assert ask(console.proxy, "admin", path="/api/audit").status_code == 401
    assert audit(console) == [("admin", "login"), ("admin", "logout"), ("viewer", "login")]


def test_a_stolen_cookie_is_no_login(console):
    thief = console.reach("127.0.0.1")
    for headers in ({}, {HEADER: "viewer"}):
        ask(console.proxy, "admin")
        thief.cookies, thief.csrf = console.proxy.cookies, console.proxy.csrf
        assert thief.get("/api/audit", headers=headers).status_code == 401
        assert closed_with(thief, **headers) == 4401
    away = console.reach("10.0.0.9")
    ask(console.proxy, "admin")
    away.cookies = console.proxy.cookies
    assert "names nobody" in sentence(away.get("/api/audit"), 401)
    assert closed_with(away) == 4401


def test_a_logout_at_the_proxy_closes_the_page_that_is_open(console):
    ask(console.proxy, "operator")
    headers = {"origin": ORIGIN, HEADER: "operator"}
    offered = ["lwd.live", f"csrf.{console.proxy.csrf}"]
    with console.proxy.websocket_connect(LIVE, subprotocols=offered, headers=headers) as tab:
        assert tab.receive_json()["name"] == "operator"
        assert console.proxy.get("/api/fleet").status_code == 401
        while (message := tab.receive())["type"] == "websocket.send":
            pass
    assert message["code"] == 4401
    assert audit(console) == [("operator", "login"), ("operator", "logout")]


def test_at_the_connection_the_proxy_must_name_whose_session_it_is(console):
    ask(console.proxy, "operator")
    assert closed_with(console.proxy, **{HEADER: "viewer"}) == 4401
    assert audit(console) == [("operator", "login"), ("operator", "logout")]


def test_there_are_no_passwords(run):
    accounts_of(RunDirectory(run)).put("ada", Role.ADMIN, "correct horse battery")
    browser = Console(run).proxy
    body = {"name": "ada", "password": "correct horse battery"}
    for headers in ({HEADER: "ada"}, {}):
        assert "takes no passwords" in sentence(browser.post("/api/login", json=body, headers=headers), 403)
    assert not browser.cookies


def test_token_origin_and_host_count_as_ever(console):
    csrf = {"X-CSRF-Token": ask(console.proxy, "viewer").json()["csrf"], HEADER: "viewer"}
    post = console.proxy.post
    assert "X-CSRF-Token is missing or wrong" in sentence(post("/api/logout", headers={HEADER: "viewer"}), 403)
    evil = {**csrf, "origin": "https://evil.example"}
    assert "from this origin" in sentence(post("/api/logout", headers=evil), 403)
    assert ask(console.reach("127.0.0.1"), "viewer").status_code == 200
    assert console.proxy.get("/api/session", headers={HEADER: "viewer", "host": "evil.example"}).status_code == 421
    assert closed_with(console.proxy, **{HEADER: "viewer", "host": "evil.example"}) == 4403
    with pytest.raises(WebSocketDisconnect) as refused:
        live(console.proxy, **{HEADER: "viewer", "origin": "https://evil.example"})
    assert refused.value.code == 4403
    assert post("/api/logout", headers=csrf).status_code == 200
    assert ask(console.proxy, "viewer", path="/api/fleet").status_code == 401


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"header": ""}, "proxy_header is ''; give"),
        ({"header": "Remote_User"}, "proxy_header is 'Remote_User'; give"),
        ({"header": "Remote-User: ada"}, "proxy_header is 'Remote-User: ada'; give"),
        ({"header": "host"}, "proxy_header is host, which browsers send"),
        ({"header": "Sec-Fetch-Site"}, "proxy_header is Sec-Fetch-Site, which browsers send"),
        ({"peers": ("proxy.example",)}, "proxy is 'proxy.example'.*give an address or a network"),
        ({"peers": ("10.0.0.9/24",)}, "proxy is '10.0.0.9/24'.*host bits"),
        ({"peers": ("*",)}, "give an address or a network"),
        ({"peers": ("0.0.0.0/0",)}, "is every address.*give the proxy's own"),
        ({"peers": ("::/0",)}, "is every address"),
        ({"peers": ("0.0.0.0/1", "10.0.0.1", "128.0.0.0/1")}, "is every address"),
        ({"peers": ("::ffff:10.0.0.1",)}, "give it as IPv4"),
        ({"secret": "0123456789"}, "the proxy's secret has 10 characters; use 32 to 1024"),
        ({"secret": "two words " * 4}, "without spaces, such as"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ProxyLogin(**{"header": HEADER, "secret": SECRET, **settings})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--proxy", "10.0.0.1"], "proxy is 10.0.0.1, and no proxy_header is given: give --proxy-header"),
        (["--proxy-role", "admin"], "proxy_role is admin, and no proxy_header is given"),
        (["--proxy-secret-file", "s"], "proxy_secret_file is s, and no proxy_header is given"),
        (["--proxy-header", HEADER, "--origin", ORIGIN], "without proxy_secret_file: every user .* could be anybody"),
        ([*HEADER_OPTIONS, "{run}/none", "--origin", ORIGIN], "proxy_secret_file .*none does not exist: make it with"),
        ([*HEADER_OPTIONS, "{run}", "--origin", ORIGIN], "is a directory, not a file"),
        ([*HEADER_OPTIONS, "{run}/open", "--origin", ORIGIN], "can be read by others: chmod 600"),
        ([*HEADER_OPTIONS, "{run}/short", "--origin", ORIGIN], "the proxy's secret has 5 characters"),
        ([*HEADER_OPTIONS, "{run}/secret"], "proxy_header is given without origin"),
        (["--host", "0.0.0.0", *HEADER_OPTIONS, "{run}/secret"], "proxy_header is given without origin"),
        (["--origin", ORIGIN, *HEADER_OPTIONS, "{run}/secret", "--proxy", "0.0.0.0/0"], "every address"),
        (
            ["--host", "0.0.0.0", "--origin", ORIGIN],
            "no account .* has a password, so nobody could log in: give --proxy-h",
        ),
        ([], "no account .* has a password"),
    ],
)
def test_a_command_line_that_would_let_nobody_or_anybody_in_is_refused(run, capsys, options, message):
    for name, text, mode in (("secret", SECRET, 0o600), ("open", SECRET, 0o640), ("short", "12345", 0o600)):
        (run / name).write_text(text)
        (run / name).chmod(mode)
    options = [option.replace("{run}", str(run)) for option in options]
    assert dispatch(["console", "--run", str(run), *options]) == 78
    assert re.search(message, capsys.readouterr().err)


def test_browsers_come_by_the_proxys_origin_only_and_send_the_cookie_over_tls_only(tmp_path):
    run, proxy = RunDirectory(tmp_path), ProxyLogin(header=HEADER, secret=SECRET)
    config = ConsoleConfig(run=run, origins=(ORIGIN,), proxy=proxy)
    assert config.allowed_origins == {ORIGIN}
    assert config.secure_cookies
    assert not ConsoleConfig(run=run, origins=(ORIGIN, "http://console.example"), proxy=proxy).secure_cookies
    assert not ConsoleConfig(run=run, origins=(ORIGIN,)).secure_cookies


def test_an_account_without_a_password_takes_none(tmp_path):
    path = tmp_path / "accounts.json"
    accounts = Accounts(path)
    accounts.put("ada", Role.ADMIN, "correct horse battery")
    assert accounts.has_passwords
    accounts.put("ada", Role.OPERATOR, None)
    # The last one is what is hashed for names that do not exist, so that these take as long.
    for password in ("correct horse battery", "", "None", "the password of nobody"):
        assert role_of(Accounts(path), "ada", password) is None
    assert Accounts(path).role_named("ada") is Role.OPERATOR
    assert Accounts(path).role_named("bob") is None
    assert not Accounts(path).has_passwords


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[str]:
    """`lwd console` on all addresses, whose proxy is at 127.0.0.2."""
    port = free_port()
    options = f"--host 0.0.0.0 --origin http://127.0.0.1:{port} --proxy-header {HEADER} --proxy 127.0.0.2"
    run = tmp_path_factory.mktemp("run")
    secret = run / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    options += f" --proxy-role viewer --proxy-secret-file {secret}"
    with served_console(run, *options.split(), port=port) as url:
        yield url


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
@pytest.mark.parametrize("forwarded", [{}, {"X-Forwarded-For": "127.0.0.2"}, {"X-Forwarded-For": "10.0.0.9"}])
def test_what_is_served_goes_by_who_connects_not_by_what_they_say(served, forwarded):
    """With nothing but a proxy's login it may be reached by others; a forwarded address is no proof of anything."""
    url, headers = served, {HEADER: "ada", **OF_PROXY, **forwarded}
    live = {"uri": f"{url.replace('http', 'ws')}/api/live", "origin": url}
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as proxy:
        assert "with the proxy's secret" in sentence(
            proxy.post(f"{url}/api/session", json={}, headers={HEADER: "ada"}), 403
        )
        answer = proxy.post(f"{url}/api/session", json={}, headers=headers)
        assert answer.json()["role"] == "viewer", answer.text
    name = f"lwd_session_{urlsplit(url).port}"
    cookie = {"Cookie": f"{name}={answer.cookies[name]}"}
    live["subprotocols"] = ["lwd.live", f"csrf.{answer.json()['csrf']}"]
    with connect(**live, additional_headers={**headers, **cookie}, source_address=("127.0.0.2", 0)) as tab:
        assert '"ada"' in tab.recv()
    # Without a session it is closed with a code that browsers hear, unlike that of a handshake which is refused.
    with connect(**live, additional_headers=headers, source_address=("127.0.0.2", 0)) as tab:
        with pytest.raises(ConnectionClosed) as closed:
            tab.recv()
        assert closed.value.rcvd.code == 4401
    assert "not from 127.0.0.1:" in sentence(httpx.get(f"{url}/api/session", headers=headers), 403)
    with pytest.raises(InvalidStatus) as refused:
        connect(**live, additional_headers={**headers, **cookie})
    assert refused.value.response.status_code == 403
    assert "names nobody" in sentence(httpx.get(f"{url}/api/session", headers=forwarded), 401)
