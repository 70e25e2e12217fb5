"""Makes the bus's connection: tries until the time is over, names who refuses us, and refuses who is not our server."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from lwd.errors import BusRefused, ServiceError
from lwd.fleet.bus_config import BusConfig, refusal
from lwd.fleet.complaints import Complaints
from lwd.fleet.messages import subject_token

INBOX = "_INBOX"
"""Begins the inboxes on which answers come, `_INBOX_<user>.>`."""
_RETRY_S = 0.2
_CLOSE_WITHIN_S = 2.0
_HANG_UPS = (BrokenPipeError, ConnectionResetError)

_logger = logging.getLogger(__name__)


async def connect(config: BusConfig, name: str, timeout_s: float) -> Client:
    """Connect, waiting for the server if it is not up yet.

    Raises:
        ConfigError: if a file of the configuration is missing or wrong.
        BusRefused: at once, if every server refuses us, or none can be trusted.
        ServiceError: if there is no connection within `timeout_s`.
    """
    watch = _Watch(config, timeout_s)
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return await _connect_once(config, name, watch, deadline_s)
        except _HungUp as error:
            # Before we had said who we are: why, the next try will tell.
            if time.monotonic() > deadline_s:
                raise ServiceError(f"the NATS server at {config.hosts} hangs up on us: look into its log") from error
            await asyncio.sleep(_RETRY_S)


class _Client(Client):
    """Looks at who the server is before it says who we are: at the first connection, and at every later one."""

    def __init__(self, config: BusConfig) -> None:
        super().__init__()
        self._config = config

    def _connect_command(self) -> bytes:
        writer = getattr(self._transport, "_io_writer", None)
        try:
            self._config.require_own_server(writer)
        except NatsError:
            # nats-py tries again with another socket, and leaves this one open.
            _abort_sockets(self)
            raise
        return super()._connect_command()


async def _connect_once(config: BusConfig, name: str, watch: "_Watch", deadline_s: float) -> Client:
    client = _Client(config)
    options: dict[str, Any] = config.client_options()
    # Answers come to an inbox of this user's own: with permissions, nobody else can listen there.
    options.setdefault("inbox_prefix", f"{INBOX}_{subject_token(config.user or name.replace(' ', '-'))}")
    connecting = asyncio.ensure_future(
        client.connect(
            servers=list(config.servers),
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds, used in asyncio.sleep
            connect_timeout=2,
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=watch.note,
            reconnected_cb=watch.reconnected(client),
            **options,
        )
    )
    watch.over.clear()
    over = asyncio.ensure_future(watch.over.wait())
    try:
        timeout_s = max(0.0, deadline_s - time.monotonic())
        await asyncio.wait({connecting, over}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise watch.explanation()
        connecting.result()
        _require_tls(client, config)
    except BaseException as error:
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError, NatsError, OSError):
            await connecting
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            await asyncio.wait_for(client.close(), _CLOSE_WITHIN_S)
        _abort_sockets(client)
        if isinstance(error, (NatsError, OSError)):
            raise watch.explanation(error) from error
        raise
    finally:
        over.cancel()
    return client


def words(error: Exception) -> str:
    """Many of nats-py's errors have no text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _HungUp(Exception):
    """The server ended the connection in the middle of the handshake."""


class _Watch:
    """Hears of a connection's errors, logs some, and knows whether the servers refuse us."""

    def __init__(self, config: BusConfig, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._refusals = 0
        self._last: Exception | None = None
        self._complaints = Complaints(_logger)
        self.over = asyncio.Event()
        """Set once a try is lost: every server had the chance to refuse us, or one hung up in the handshake."""

    async def note(self, error: Exception) -> None:
        """Called by nats-py for each failed try, several times a second, and for what its callbacks raise."""
        refused = refusal(error, self._config)
        self._last = refused or error
        if refused is not None:
            self._refusals += 1
            if self._refusals >= len(self._config.servers):
                self.over.set()
        elif isinstance(error, _HANG_UPS):
            # nats-py would now wait half a minute for the end of the TLS connection that is broken already.
            self.over.set()
        self._complaints.warn(type(error).__name__, "bus: %s", refused or words(error)[:500])

    def reconnected(self, client: Client) -> Callable[[], Any]:
        """Return what to call after a reconnection: closes one that is not encrypted as it should be."""

        async def check() -> None:
            try:
                _require_tls(client, self._config)
            except BusRefused as error:
                _logger.error("bus: %s", error)
                await client.close()

        return check

    def explanation(self, error: Exception | None = None) -> Exception:
        if error is not None:
            self._last = refusal(error, self._config) or error
        if isinstance(self._last, BusRefused):
            return self._last
        if isinstance(self._last, _HANG_UPS):
            return _HungUp()
        reason = type(self._last).__name__ if self._last is not None else "no answer"
        return ServiceError(f"no NATS server at {self._config.hosts} within {self._timeout_s:g} s ({reason}): start it")


def _abort_sockets(client: Client) -> None:
    """nats-py leaves a socket open whose TLS connection broke while it was made, or does not end in order."""
    for name in ("_io_writer", "_bare_io_writer"):
        writer = getattr(client._transport, name, None)
        if writer is not None:
            writer.transport.abort()


def _require_tls(client: Client, config: BusConfig) -> None:
    """nats-py goes on in the clear where a server offers no TLS; we do not.

    Raises:
        BusRefused: if TLS is wanted and the server has none.
    """
    if config.wants_tls and not client._server_info.get("tls_required"):
        raise BusRefused(f"the NATS server at {config.hosts} offers no TLS: mend its `tls` block, or use nats://")
