"""Login by an authenticating reverse proxy: whom it names in a header is logged in; nobody else's header counts."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from fastapi import HTTPException
from fastapi.requests import HTTPConnection

from lwd.console.accounts import Role
from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1")
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
        return self.header in connection.headers and not self._is_proxy(peer_of(connection))

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
        return (
            f"the header {self.header} counts only from the proxy, not from {peer_of(connection)}: "
            "open the console at the proxy's address (if this is the proxy, name its address with --proxy)"
        )

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            # A socket that listens on :: names peers of IPv4 so.
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


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
