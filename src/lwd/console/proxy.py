"""Login by an authenticating reverse proxy: whom it names in a header is logged in; nobody else's header counts."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fastapi import HTTPException
from fastapi.requests import HTTPConnection

from lwd.console.accounts import Role
from lwd.console.sessions import same_secret
from lwd.data.episode_file import NAME_PATTERN
from lwd.data.plain_file import read_plain_file
from lwd.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1")
SECRET_HEADER = "X-LWD-Proxy-Secret"
"""In which the proxy shows that it is the proxy: everybody on its machine has its address."""
_MIN_SECRET = 32
_MAX_SECRET = 1024
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_SENT_BY_BROWSERS = re.compile(
    r"(accept|content|sec)(-.*)?|authorization|connection|cookie|host|origin|referer|upgrade|user-agent|x-csrf-token",
    re.IGNORECASE,
)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True)
class ProxyLogin:
    """Which header names who is logged in, and from whom it counts."""

    header: str
    """Such as Remote-User; the proxy must take it out of what browsers send."""
    secret: str = field(repr=False)
    """What the proxy sends in the header X-LWD-Proxy-Secret."""
    peers: tuple[str, ...] = LOOPBACK
    """Addresses and networks from which the proxy connects: who else can connect from there, can be anybody."""
    role: Role | None = None
    """What names without an account may do; None: they are refused."""

    def __post_init__(self) -> None:
        if not _HEADER.fullmatch(self.header):
            raise ConfigError(
                f"proxy_header is {self.header!r}; give the name of a header, letters, digits and dashes, "
                "such as Remote-User"
            )
        if _SENT_BY_BROWSERS.fullmatch(self.header):
            raise ConfigError(
                f"proxy_header is {self.header}, which browsers send by themselves: give one that only the proxy sets, "
                "such as Remote-User"
            )
        if not _MIN_SECRET <= len(self.secret) <= _MAX_SECRET or not re.fullmatch(r"[!-~]+", self.secret):
            raise ConfigError(
                f"the proxy's secret has {len(self.secret)} characters; use {_MIN_SECRET} to {_MAX_SECRET} letters, "
                "digits and signs without spaces, such as what `openssl rand -hex 32` prints"
            )
        if any(network.prefixlen == 0 for network in _joined(self._networks)):
            raise ConfigError(
                f"proxy is {' '.join(self.peers)}, which is every address, so that everybody could be anybody: "
                "give the proxy's own"
            )

    @cached_property
    def _networks(self) -> tuple[_Network, ...]:
        return tuple(map(_network, self.peers))

    def is_forged(self, connection: HTTPConnection) -> bool:
        """Whether the header comes from anybody but the proxy."""
        return self.header in connection.headers and not (
            self._is_proxy(peer_of(connection)) and self._has_secret(connection)
        )

    def name_in(self, connection: HTTPConnection) -> str:
        """Return who is logged in at the proxy.

        Raises:
            HTTPException: if it names nobody, or what comes with the connection cannot be trusted.
        """
        if self.is_forged(connection):
            raise HTTPException(403, self.forged(connection))
        values = connection.headers.getlist(self.header)
        if len(values) > 1:
            raise HTTPException(
                403, f"the header {self.header} came {len(values)} times: the proxy must remove what browsers send"
            )
        if not values or not values[0]:
            raise HTTPException(
                401, f"the header {self.header} names nobody: log in at the proxy, and open the console there"
            )
        if not re.fullmatch(NAME_PATTERN, values[0]):
            raise HTTPException(
                403,
                f"the name in the header {self.header} will not do: names are letters, digits, dot, dash and "
                "underscore, 128 at most; let the proxy send another attribute of its users",
            )
        return values[0]

    def forged(self, connection: HTTPConnection) -> str:
        """Say what is wrong with a header that is not the proxy's."""
        if self._is_proxy(peer_of(connection)):
            return (
                f"the header {self.header} counts only with the proxy's secret in {SECRET_HEADER}: "
                "open the console at the proxy's address (if this is the proxy, let it send what --proxy-secret-file "
                "holds)"
            )
        return (
            f"the header {self.header} counts only from the proxy, not from {peer_of(connection)}: "
            "open the console at the proxy's address (if this is the proxy, name its address with --proxy)"
        )

    def _has_secret(self, connection: HTTPConnection) -> bool:
        given = connection.headers.getlist(SECRET_HEADER)
        return len(given) == 1 and same_secret(given[0], self.secret)

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            # A socket that listens on :: names peers of IPv4 so.
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def read_secret(path: Path) -> str:
    """Return the secret that a file holds.

    Raises:
        ConfigError: if it is not there, or others than its owner may read it.
    """
    content = read_plain_file(path, max_bytes=4 * _MAX_SECRET)
    if content is None:
        raise ConfigError(
            f"proxy_secret_file {path} does not exist: make it with `(umask 077; openssl rand -hex 32 > {path})`"
        )
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"proxy_secret_file {path} can be read by others: chmod 600 {path}")
    return content.decode("ascii", errors="replace").strip()


def peer_of(connection: HTTPConnection) -> str:
    """Return the address that a connection comes from."""
    return "" if connection.client is None else connection.client.host


def _network(peer: str) -> _Network:
    try:
        network = ipaddress.ip_network(peer)
    except ValueError as error:
        raise ConfigError(
            f"proxy is {peer!r} ({error}); give an address or a network, such as 127.0.0.1 or 10.0.0.0/24"
        ) from error
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ConfigError(f"proxy is {peer}, an IPv4 address written as IPv6: give it as IPv4, such as 127.0.0.1")
    return network


def _joined(networks: tuple[_Network, ...]) -> Iterable[_Network]:
    yield from ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    yield from ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
