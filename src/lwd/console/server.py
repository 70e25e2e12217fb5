"""`lwd console`: serves one run's console. On loopback links do for a login; any other address wants accounts."""

import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from lwd.commands import host_port, lwd_command, without_brackets
from lwd.console.accounts import Accounts
from lwd.console.app import AppConfig, create_app
from lwd.console.connections import BACKLOG, Connections, GuardedWebSocket, guarded_by
from lwd.console.log_limit import LogLimit
from lwd.console.proxy import ProxyLogin
from lwd.errors import ConfigError, PortInUse, ServiceError
from lwd.fleet.coordinator_process import bus_of
from lwd.recipes.run_directory import RunDirectory

_MAX_MESSAGE_BYTES = 65_536
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConsoleConfig:
    """Settings of the console's process."""

    run: RunDirectory
    host: str = "127.0.0.1"
    port: int = 8787
    origins: tuple[str, ...] = ()
    """Where browsers find it, if that is not http://HOST:PORT: behind a proxy, or under a name."""
    proxy: ProxyLogin | None = None
    """Who logs people in instead of passwords."""

    def __post_init__(self) -> None:
        # A frozen dataclass: an address in brackets is the one inside.
        object.__setattr__(self, "host", without_brackets(self.host))
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must lie in [1, 65535]")
        for origin in self.origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ConfigError(
                    f"origin {origin!r} is no origin: give such as https://console.example or http://NAME:8787"
                )

    @property
    def is_loopback(self) -> bool:
        return _is_loopback(self.host)

    @property
    def reached_by(self) -> str:
        """Says how others than this machine reach it, as far as the settings tell; empty: not at all."""
        if not self.is_loopback:
            return f"host is {self.host}, which others can reach"
        # Something passes on what comes under that name: a proxy, a tunnel.
        names = [each for each in self.origins if not _is_loopback(urlsplit(each).hostname or "")]
        return f"origin is {names[0]}, under which others can reach it" if names else ""

    @property
    def secure_cookies(self) -> bool:
        """Whether browsers shall send the session's cookie over TLS only: where they come no other way."""
        return all(origin.startswith("https://") for origin in self.allowed_origins)

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins given, and those that the address itself has where browsers connect to it.

        Raises:
            ConfigError: if nothing says under which name browsers find it.
        """
        if self.proxy is not None and not self.origins:
            raise ConfigError("proxy_header is given without origin: give the proxy's, such as https://console.example")
        if self.is_loopback and self.proxy is None:
            names = ("127.0.0.1", "localhost", "::1", self.host)
            return frozenset((*self.origins, *(f"http://{host_port(name, self.port)}" for name in names)))
        if not self.origins:
            raise ConfigError(
                f"host is {self.host}, so browsers need a name: give --origin https://NAME or http://NAME:PORT"
            )
        return frozenset(self.origins)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def accounts_of(run: RunDirectory) -> Accounts:
    """Read the accounts of a run."""
    return Accounts(run.path / "console" / "accounts.json")


def run_console(config: ConsoleConfig, on_link: Callable[[ConsoleConfig], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        on_link: called before it serves, if one needs a link to log in (`lwd.console.links`).
    Raises:
        ConfigError: if it would be open to others without a login, or a setting or file is wrong.
        PortInUse: if the port is taken.
        ServiceError: if a part that it needs has ended.
    """
    accounts = accounts_of(config.run)
    add = lwd_command("console", "account", "--run", config.run.path, "--name", "NAME", "--role", "admin")
    if config.proxy is None and config.reached_by and not len(accounts):
        raise ConfigError(
            f"{config.reached_by}, and there are no accounts: add one with "
            f"`{add}`, let a proxy log people in "
            "(--proxy-header), or use --host 127.0.0.1 without --origin"
        )
    if config.proxy is None and len(accounts) and not accounts.has_passwords:
        raise ConfigError(
            f"no account of {config.run.path} has a password, so nobody could log in: give --proxy-header, or add one "
            f"with `{add}`"
        )
    app = create_app(
        AppConfig(
            run=config.run,
            bus=lambda: bus_of(config.run.path, config.run.bus()),
            origins=config.allowed_origins,
            accounts=accounts,
            proxy=config.proxy,
            secure_cookies=config.secure_cookies,
            port=config.port,
        )
    )
    listening = _listen(config.host, config.port)
    _limit_log()
    _logger.info("console of %s: http://%s", config.run.path, host_port(config.host, config.port))
    if config.proxy is None and not len(accounts):
        on_link(config)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=guarded_by(Connections()),
            ws=GuardedWebSocket,
            backlog=BACKLOG,
            log_config=None,
            log_level="warning",
            access_log=False,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=2,
            server_header=False,
            # X-Forwarded-For must not pass for the peer's address: a proxy's header counts by who connects.
            proxy_headers=False,
        )
    )
    with listening:
        server.run(sockets=[listening])
    if failure := app.state.background.failure:
        raise ServiceError(failure)


def _limit_log() -> None:
    limit = LogLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise PortInUse(
            f"{host_port(host, port)} cannot be listened on ({error.strerror}): choose another --port"
        ) from error
    return listening
