"""The doorbell: NATS JetStream for announcements, core subjects for heartbeats, one KV entry for policies.

Nothing is lost when all of NATS is lost: the coordinator finds unannounced episodes in the store, and robots
find the newest policy there. So callers treat `ServiceError` as "later", never as the loss of anything.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NoStreamResponseError
from pydantic import ValidationError

from lwd.errors import BusRefused, ServiceError
from lwd.fleet.bus_config import BusConfig, refusal
from lwd.fleet.jetstream import BUCKET, CONSUMER, STREAM, ensure_bucket, ensure_consumer, ensure_stream
from lwd.fleet.messages import (
    POLICY_SUBJECT,
    EpisodeAnnouncement,
    Message,
    PolicyPointer,
    episode_subject,
)

_POINTER_KEY = "policy"
_CALL_TIMEOUT_S = 5.0
_LOG_EVERY_S = 10.0
_RETRY_S = 0.2
_CLOSE_WITHIN_S = 2.0

_logger = logging.getLogger(__name__)
MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, kw_only=True)
class ReceivedAnnouncement:
    """An announcement that must be acknowledged once its episode is committed or quarantined."""

    announcement: EpisodeAnnouncement
    message: Msg


class Bus:
    """One connection. It reconnects for ever; calls fail with ServiceError while it is down."""

    def __init__(self, client: Client, config: BusConfig) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=_CALL_TIMEOUT_S)
        self._replicas = config.replicas
        self._pull: JetStreamContext.PullSubscription | None = None

    @classmethod
    async def connect(cls, bus: BusConfig | str, *, name: str, timeout_s: float = 20.0) -> "Bus":
        """Connect, waiting for the server if it is not up yet.

        Args:
            bus: a URL stands for a server without TLS and credentials file.
            name: shown in the server's monitoring.
        Raises:
            ConfigError: if a file of the configuration is missing or wrong.
            BusRefused: at once, if every server refuses us, or none can be trusted.
            ServiceError: if there is no connection within `timeout_s`.
        """
        config = bus if isinstance(bus, BusConfig) else BusConfig(urls=(bus,))
        watch = _Watch(config, timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                return await cls._connect_once(config, name, watch, deadline_s)
            except _HungUp as error:
                # Before we had said who we are: why, the next try will tell.
                if time.monotonic() > deadline_s:
                    raise ServiceError(
                        f"the NATS server at {config.hosts} hangs up on us: look into its log"
                    ) from error
                await asyncio.sleep(_RETRY_S)

    @classmethod
    async def _connect_once(cls, config: BusConfig, name: str, watch: "_Watch", deadline_s: float) -> "Bus":
        client = Client()
        connecting = asyncio.ensure_future(
            client.connect(
                servers=list(config.urls),
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds, used in asyncio.sleep
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=watch.note,
                reconnected_cb=watch.reconnected(client),
                **config.client_options(),
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
        return cls(client, config)

    async def close(self) -> None:
        """Send what is pending and disconnect."""
        try:
            await asyncio.wait_for(self._client.flush(timeout=2), 3)
        except (NatsError, OSError, TimeoutError):
            _logger.info("bus: closed while disconnected")
        # nats-py drains the broken socket once more.
        with contextlib.suppress(OSError):
            await self._client.close()

    @property
    def jetstream(self) -> JetStreamContext:
        """For what is kept in the KV bucket by others (`stop_bus`)."""
        return self._jetstream

    @property
    def replicas(self) -> int | None:
        return self._replicas

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone for good (refused, for example); connect again."""
        return bool(self._client.is_closed)

    async def announce(self, announcement: EpisodeAnnouncement) -> None:
        """Announce an episode; returns when the announcement is on the server's disk.

        Raises:
            ServiceError: if it was not acknowledged; announcing again is harmless.
        """
        self._require_connection()
        try:
            try:
                await self._publish_announcement(announcement)
            except (NoStreamResponseError, TimeoutError):
                # A time-out, too: where somebody else listens to `lwd.>`, no server says that nobody stored it.
                await ensure_stream(self._jetstream, self._replicas)
                await self._publish_announcement(announcement)
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"announcing {announcement.episode_id} failed ({_words(error)})") from error

    async def fetch_announcements(self, limit: int, timeout_s: float) -> list[ReceivedAnnouncement]:
        """Return the next announcements, an empty list after `timeout_s` without any.

        A message that cannot be read is logged and dropped: it is only a doorbell, the store has the episode. So is
        one on another robot's subject: where the server lets a robot publish on its own subject alone, it can
        condemn (by a false SHA-256) no episode but its own.

        Raises:
            ServiceError: if the bus is down; the next call subscribes again.
        """
        try:
            if self._pull is None:
                await ensure_stream(self._jetstream, self._replicas)
                await ensure_consumer(self._jetstream)
                self._pull = await self._jetstream.pull_subscribe_bind(durable=CONSUMER, stream=STREAM)
        except (NatsError, OSError) as error:
            raise ServiceError(f"stream {STREAM} cannot be used ({_words(error)})") from error
        try:
            messages = await self._pull.fetch(limit, timeout=timeout_s)
        except TimeoutError:  # nats.errors.TimeoutError, too: nothing came
            return []
        except (NatsError, OSError) as error:
            # nats-py's pull subscriptions do not survive every reconnect; a new one does.
            await self._drop_subscription()
            raise ServiceError(f"fetching announcements failed ({_words(error)})") from error
        received = []
        for message in messages:
            announcement = _parse(EpisodeAnnouncement, message)
            if announcement is not None and message.subject != (own := episode_subject(announcement.robot_id)):
                _logger.warning(
                    "dropped an announcement of %s on %s, not on %s", announcement.key, message.subject, own
                )
                announcement = None
            if announcement is None:
                await message.term()
            else:
                received.append(ReceivedAnnouncement(announcement=announcement, message=message))
        return received

    async def acknowledge(self, received: ReceivedAnnouncement) -> None:
        """Tell the bus that an announcement is dealt with; if that fails it comes again, harmlessly."""
        try:
            await received.message.ack()
        except (NatsError, OSError) as error:
            _logger.info("ack of %s failed: %s", received.announcement.episode_id, error)

    async def publish(self, subject: str, message: Message) -> None:
        """Publish on a core subject: who listens now gets it, nobody else.

        Raises:
            ServiceError: if the connection is down and its buffer is full.
        """
        await self.publish_bytes(subject, message.model_dump_json().encode())

    async def publish_bytes(self, subject: str, data: bytes) -> None:
        """Publish what is no message: pose frames.

        Raises:
            ServiceError: as `publish`.
        """
        try:
            await self._client.publish(subject, data)
        except (NatsError, OSError) as error:
            raise ServiceError(f"publishing on {subject} failed ({_words(error)})") from error

    async def subscribe_bytes(self, subject: str, handler: Callable[[bytes], Awaitable[None]]) -> None:
        """Call `handler` with what comes on a core subject, unread."""

        async def receive(message: Msg) -> None:
            await handler(message.data)

        await self._client.subscribe(subject, cb=receive)

    async def subscribe(
        self, subject: str, kind: type[MessageT], handler: Callable[[MessageT], Awaitable[None]]
    ) -> None:
        """Call `handler` with every message of a core subject; unreadable ones are logged and dropped."""

        async def receive(message: Msg) -> None:
            if (parsed := _parse(kind, message)) is not None:
                await handler(parsed)

        await self._client.subscribe(subject, cb=receive)

    async def set_policy_pointer(self, pointer: PolicyPointer) -> None:
        """Store the pointer in the KV and ring everybody.

        Raises:
            ServiceError: if the bus is down; robots then find the policy in the store, later.
        """
        self._require_connection()
        try:
            bucket = await ensure_bucket(self._jetstream, self._replicas)
            await bucket.put(_POINTER_KEY, pointer.model_dump_json().encode())
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"announcing policy {pointer.version} failed ({_words(error)})") from error
        await self.publish(POLICY_SUBJECT, pointer)

    async def get_policy_pointer(self) -> PolicyPointer | None:
        """Return the pointer that was set last, None if there is none.

        Raises:
            ServiceError: if the bus is down.
        """
        self._require_connection()
        try:
            bucket = await self._jetstream.key_value(BUCKET)
            value = (await bucket.get(_POINTER_KEY)).value
        except (KeyNotFoundError, BucketNotFoundError):
            return None
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"reading the policy pointer failed ({_words(error)})") from error
        try:
            return PolicyPointer.model_validate_json(value or b"")
        except ValidationError as error:
            raise ServiceError(f"the policy pointer in KV bucket {BUCKET} is unreadable: {error}") from error

    def _require_connection(self) -> None:
        """Fail at once rather than after a timeout."""
        if not self._client.is_connected:
            raise ServiceError("the bus is disconnected; it reconnects by itself")

    async def _publish_announcement(self, announcement: EpisodeAnnouncement) -> None:
        await self._jetstream.publish(
            episode_subject(announcement.robot_id),
            announcement.model_dump_json().encode(),
            timeout=_CALL_TIMEOUT_S,
            headers={"Nats-Msg-Id": announcement.episode_id},
        )

    async def _drop_subscription(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            try:
                await pull.unsubscribe()
            except (NatsError, OSError) as error:
                _logger.info("bus: unsubscribe: %s", error)


def _words(error: Exception) -> str:
    """Many of nats-py's errors have no text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _parse(kind: type[MessageT], message: Msg) -> MessageT | None:
    try:
        return kind.model_validate_json(message.data)
    except ValidationError as error:
        _logger.warning("bus: unreadable %s on %s: %s", kind.__name__, message.subject, error.errors()[0]["msg"])
        return None


_HANG_UPS = (BrokenPipeError, ConnectionResetError)


class _HungUp(Exception):
    """The server ended the connection in the middle of the handshake."""


class _Watch:
    """Hears of a connection's errors, logs some, and knows whether the servers refuse us."""

    def __init__(self, config: BusConfig, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._logged_s = -_LOG_EVERY_S
        self._refusals = 0
        self._last: Exception | None = None
        self.over = asyncio.Event()
        """Set once a try is lost: every server had the chance to refuse us, or one hung up in the handshake."""

    async def note(self, error: Exception) -> None:
        """Called by nats-py for each failed try, several times a second."""
        refused = refusal(error, self._config)
        self._last = refused or error
        if refused is not None:
            self._refusals += 1
            if self._refusals >= len(self._config.urls):
                self.over.set()
        elif isinstance(error, _HANG_UPS):
            # nats-py would now wait half a minute for the end of the TLS connection that is broken already.
            self.over.set()
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            _logger.warning("bus: %s", refused or _words(error))

    def reconnected(self, client: Client) -> Callable[[], Awaitable[None]]:
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
