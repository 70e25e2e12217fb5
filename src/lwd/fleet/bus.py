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

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import KeyNotFoundError, NotFoundError
from pydantic import ValidationError

from lwd.errors import ServiceError
from lwd.fleet.messages import (
    EPISODE_SUBJECT,
    POLICY_SUBJECT,
    EpisodeAnnouncement,
    Message,
    PolicyPointer,
    episode_subject,
)

STREAM = "LWD_EPISODES"
CONSUMER = "coordinator"
BUCKET = "lwd"
_POINTER_KEY = "policy"
_DEDUPE_WINDOW_S = 600.0
_ACK_WAIT_S = 15.0
"""Short: after a crash of the coordinator its successor gets the messages soon. Duplicates are harmless."""
_KEEP_S = 7 * 86_400.0
_CALL_TIMEOUT_S = 5.0
_LOG_EVERY_S = 10.0

_logger = logging.getLogger(__name__)
MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, kw_only=True)
class ReceivedAnnouncement:
    """An announcement that must be acknowledged once its episode is committed or quarantined."""

    announcement: EpisodeAnnouncement
    message: Msg


class Bus:
    """One connection. It reconnects for ever; calls fail with ServiceError while it is down."""

    def __init__(self, client: Client, jetstream: JetStreamContext) -> None:
        self._client = client
        self._jetstream = jetstream
        self._pull: JetStreamContext.PullSubscription | None = None
        self._stream_known = False

    @classmethod
    async def connect(cls, url: str, *, name: str, timeout_s: float = 20.0) -> "Bus":
        """Connect, waiting for the server if it is not up yet.

        Raises:
            ServiceError: if there is no connection within `timeout_s`.
        """

        logged_s = -_LOG_EVERY_S

        async def on_error(error: Exception) -> None:
            nonlocal logged_s
            # Each of several tries a second to reconnect ends here.
            if time.monotonic() - logged_s >= _LOG_EVERY_S:
                logged_s = time.monotonic()
                _logger.warning("bus: %s", error or type(error).__name__)

        try:
            client = await asyncio.wait_for(
                nats.connect(
                    servers=[url],
                    name=name,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,
                    connect_timeout=2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    error_cb=on_error,
                ),
                timeout_s,
            )
        except (NatsError, OSError, TimeoutError) as error:
            host = url.rpartition("@")[2]
            raise ServiceError(
                f"no NATS server at {host} within {timeout_s:g} s ({type(error).__name__}): start it"
            ) from error
        return cls(client, client.jetstream(timeout=_CALL_TIMEOUT_S))

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
            await self._ensure_stream()
            await self._jetstream.publish(
                episode_subject(announcement.robot_id),
                announcement.model_dump_json().encode(),
                timeout=_CALL_TIMEOUT_S,
                headers={"Nats-Msg-Id": announcement.episode_id},
            )
        except (NatsError, OSError, TimeoutError) as error:
            self._stream_known = False
            raise ServiceError(f"announcing {announcement.episode_id} failed ({type(error).__name__})") from error

    async def fetch_announcements(self, limit: int, timeout_s: float) -> list[ReceivedAnnouncement]:
        """Return the next announcements, an empty list after `timeout_s` without any.

        A message that cannot be read is logged and dropped: it is only a doorbell, the store has the episode.

        Raises:
            ServiceError: if the bus is down; the next call subscribes again.
        """
        try:
            if self._pull is None:
                await self._ensure_stream()
                self._pull = await self._jetstream.pull_subscribe(
                    f"{EPISODE_SUBJECT}.>",
                    durable=CONSUMER,
                    stream=STREAM,
                    config=ConsumerConfig(ack_wait=_ACK_WAIT_S, max_ack_pending=8192),
                )
            messages = await self._pull.fetch(limit, timeout=timeout_s)
        except TimeoutError:  # nats.errors.TimeoutError, too: nothing came
            return []
        except (NatsError, OSError) as error:
            # nats-py's pull subscriptions do not survive every reconnect; a new one does.
            await self._drop_subscription()
            raise ServiceError(f"fetching announcements failed ({type(error).__name__}: {error})") from error
        received = []
        for message in messages:
            if (announcement := _parse(EpisodeAnnouncement, message)) is None:
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
        try:
            await self._client.publish(subject, message.model_dump_json().encode())
        except (NatsError, OSError) as error:
            raise ServiceError(f"publishing on {subject} failed ({type(error).__name__})") from error

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
            bucket = await self._bucket()
            await bucket.put(_POINTER_KEY, pointer.model_dump_json().encode())
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"announcing policy {pointer.version} failed ({type(error).__name__})") from error
        await self.publish(POLICY_SUBJECT, pointer)

    async def get_policy_pointer(self) -> PolicyPointer | None:
        """Return the pointer that was set last, None if there is none.

        Raises:
            ServiceError: if the bus is down.
        """
        self._require_connection()
        try:
            value = (await (await self._bucket()).get(_POINTER_KEY)).value
        except KeyNotFoundError:
            return None
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"reading the policy pointer failed ({type(error).__name__})") from error
        try:
            return PolicyPointer.model_validate_json(value or b"")
        except ValidationError as error:
            raise ServiceError(f"the policy pointer in KV bucket {BUCKET} is unreadable: {error}") from error

    def _require_connection(self) -> None:
        """Fail at once rather than after a timeout."""
        if not self._client.is_connected:
            raise ServiceError("the bus is disconnected; it reconnects by itself")

    async def _ensure_stream(self) -> None:
        if self._stream_known:
            return
        try:
            await self._jetstream.stream_info(STREAM)
        except NotFoundError:
            await self._jetstream.add_stream(
                StreamConfig(
                    name=STREAM,
                    subjects=[f"{EPISODE_SUBJECT}.>"],
                    retention=RetentionPolicy.WORK_QUEUE,
                    storage=StorageType.FILE,
                    duplicate_window=_DEDUPE_WINDOW_S,
                    max_age=_KEEP_S,
                )
            )
        self._stream_known = True

    async def _bucket(self) -> "nats.js.kv.KeyValue":
        try:
            return await self._jetstream.key_value(BUCKET)
        except NotFoundError:
            return await self._jetstream.create_key_value(
                KeyValueConfig(bucket=BUCKET, history=1, storage=StorageType.FILE)
            )

    async def _drop_subscription(self) -> None:
        self._stream_known = False
        pull, self._pull = self._pull, None
        if pull is not None:
            try:
                await pull.unsubscribe()
            except (NatsError, OSError) as error:
                _logger.info("bus: unsubscribe: %s", error)


def _parse(kind: type[MessageT], message: Msg) -> MessageT | None:
    try:
        return kind.model_validate_json(message.data)
    except ValidationError as error:
        _logger.warning("bus: unreadable %s on %s: %s", kind.__name__, message.subject, error.errors()[0]["msg"])
        return None
