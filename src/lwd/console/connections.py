"""Which TCP connections the console keeps: the head of a request within seconds, few per peer, logged-in people first.

uvicorn has no time limit for the head of a request and no bound per peer, so its protocols are extended here.
"""

import asyncio
import resource
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from lwd.console.peers import network_of

HEAD_WITHIN_S = 10.0
PER_PEER = 64
"""Connections from one peer that nobody has logged in to."""
PER_PERSON = 64
BACKLOG = 64
"""Connections that asyncio may accept in one go, before any of them can be refused."""
_TOTAL = 1024
_FILES = 4096


class Connection:
    """One TCP connection; requests find it in their scope's state under "connection"."""

    def __init__(self, transport: asyncio.Transport, peer: str, connections: "Connections") -> None:
        self.peer = peer
        self.waits = True
        """Whether the head of a request is still to come."""
        self.who = ""
        """Who is logged in, by its last request: then it is not closed for others."""
        self._transport = transport
        self._connections = connections

    def abort(self) -> None:
        self._connections.closed(self)
        self._transport.abort()

    def closed(self) -> None:
        self._connections.closed(self)

    def belongs_to(self, who: str) -> None:
        """Its present request comes from somebody who is logged in; of one person not too many count as such."""
        self.who = who if self.who == who or self._connections.count(who) < PER_PERSON else ""


class Connections:
    """All connections of one console. A new one takes the place of the oldest that said nothing yet."""

    def __init__(self, *, per_peer: int = PER_PEER, total: int | None = None) -> None:
        """
        Args:
            total: None: what the limit of open files allows, 1024 at most.
        """
        self._per_peer = per_peer
        self._total = _allowed_total() if total is None else total
        self._open: dict[Connection, None] = {}
        """In the order in which they came."""

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, transport: asyncio.Transport, peer: str) -> Connection:
        """Enter a new connection; close another one where there are too many."""
        connection = Connection(transport, network_of(peer), self)
        strangers = [each for each in self._open if not each.who]
        own = [each for each in strangers if each.peer == connection.peer]
        if len(own) >= self._per_peer:
            _oldest(own).abort()
        elif len(self._open) >= self._total:
            if not strangers:
                # Everybody else is logged in; asyncio has not told the protocol of this one yet.
                asyncio.get_running_loop().call_soon(connection.abort)
            else:
                (greedy, _), *_ = Counter(each.peer for each in strangers).most_common(1)
                _oldest([each for each in strangers if each.peer == greedy]).abort()
        self._open[connection] = None
        return connection

    def closed(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def count(self, who: str) -> int:
        return sum(each.who == who for each in self._open)


def _oldest(connections: list[Connection]) -> Connection:
    return next((each for each in connections if each.waits), connections[0])


def _allowed_total() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return min(_TOTAL, _TOTAL if soft == resource.RLIM_INFINITY else soft // 2)


class GuardedHttp(H11Protocol):
    """Closes a connection on which the head of a request takes too long."""

    guard: Connections
    """Set by `guarded_by`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late: asyncio.TimerHandle | None = None
        self._connection = self.guard.opened(transport, self.client[0] if self.client else "")
        self.app_state = {**self.app_state, "connection": self._connection}
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._connection.waits = False
        self._cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._connection.closed()
        super().connection_lost(exc)

    def _look(self) -> None:
        waits = self.conn.their_state is h11.IDLE
        if self._connection.waits and not waits:
            # A proxy sends requests of different people through one connection.
            self._connection.who = ""
        self._connection.waits = waits
        if not waits:
            self._cancel()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(HEAD_WITHIN_S, self._connection.abort)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """Counts as the connection that it was before the upgrade."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.app_state["connection"].closed()
        super().connection_lost(exc)


def guarded_by(connections: Connections) -> type[GuardedHttp]:
    """Return the HTTP protocol whose connections are entered there."""

    class Guarded(GuardedHttp):
        guard = connections

    return Guarded


def mark_known(scope: Any, who: str) -> None:
    """Note that the request or WebSocket of a scope comes from somebody who is logged in."""
    connection = scope.get("state", {}).get("connection")
    if connection is not None:
        connection.belongs_to(who)
