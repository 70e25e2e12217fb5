"""The doorbell: NATS JetStream for announcements, core subjects for heartbeats, one KV entry for policies.

Nothing is lost when all of NATS is lost: the coordinator finds unannounced episodes in the store, and robots
find the newest policy there. So callers treat `ServiceError` as "later", never as the loss of anything.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NoStreamResponseError
from pydantic import ValidationError

from lwd.errors import ServiceError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.bus_connection import INBOX, connect, words
from lwd.fleet.complaints import Complaints
from lwd.fleet.jetstream import (
    BUCKET,
    CONSUMER,
    POINTER_KEY,
    STREAM,
    ensure_bucket,
    ensure_consumer,
    ensure_stream,
    remedy,
)
from lwd.fleet.messages import (
    POLICY_SUBJECT,
    EpisodeAnnouncement,
    Message,
    PolicyPointer,
    episode_subject,
)
from lwd.fleet.receiving import Mute, Reader, listen

_CALL_TIMEOUT_S = 5.0

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
        self._directory = None if config.nkey is None else config.nkey.parent
        self._pull: JetStreamContext.PullSubscription | None = None
        self._complaints = Complaints(_logger)
        self._reader = Reader(self._complaints)

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
        return cls(await connect(config, name, timeout_s), config)

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
            raise ServiceError(f"announcing {announcement.episode_id} failed ({self._words(error)})") from error

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
            raise ServiceError(f"stream {STREAM} cannot be used ({self._words(error)})") from error
        try:
            messages = await self._pull.fetch(limit, timeout=timeout_s)
        except TimeoutError:  # nats.errors.TimeoutError, too: nothing came
            return []
        except (NatsError, OSError) as error:
            # nats-py's pull subscriptions do not survive every reconnect; a new one does.
            await self._drop_subscription()
            raise ServiceError(f"fetching announcements failed ({words(error)})") from error
        received = []
        for message in messages:
            announcement = self._reader.read(EpisodeAnnouncement, message)
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
            raise ServiceError(f"publishing on {subject} failed ({words(error)})") from error

    async def subscribe_bytes(
        self,
        subject: str,
        handler: Callable[[bytes], Awaitable[None]],
        *,
        subject_of: Callable[[bytes], str] | None = None,
    ) -> None:
        """Call `handler` with what comes on a core subject, unread.

        Args:
            subject_of: returns the subject on which these bytes belong, or raises ServiceError; what came on another
                one is dropped.
        """

        async def receive(message: Msg) -> None:
            try:
                if subject_of is None or (own := subject_of(message.data)) == message.subject:
                    await handler(message.data)
                    return
                reason = f"by its content it belongs on {own[:200]}"
            except ServiceError as error:
                reason = str(error)
            self._complaints.warn(
                f"bytes {message.subject[:200]}", "bus: dropped a frame on %s: %s", message.subject[:200], reason
            )

        await listen(self._client, subject, receive)

    async def subscribe(
        self,
        subject: str,
        kind: type[MessageT],
        handler: Callable[[MessageT], Awaitable[None]],
        *,
        mute: Mute | None = None,
    ) -> None:
        """Call `handler` with the messages of a core subject.

        What is too large, unreadable, too much, or by its content of another subject, is dropped; some of it is logged
        (`lwd.fleet.subjects`).

        Args:
            mute: when to stop listening for a moment. None: never.
        """

        async def receive(message: Msg) -> None:
            if not self._reader.admits(kind, message):
                return
            if (parsed := self._reader.read(kind, message)) is not None:
                await handler(parsed)

        await listen(self._client, subject, receive, mute=mute)

    async def subscribe_calls(
        self,
        subject: str,
        kind: type[MessageT],
        handler: Callable[[MessageT, str], Awaitable[None]],
        *,
        admits: Callable[[bytes], bool],
    ) -> None:
        """Call `handler` with the messages of a core subject and the inbox that each is to be answered on, or "".

        Args:
            admits: looks at the unread bytes and says whether this message may be read.
        """

        async def receive(message: Msg) -> None:
            if not admits(message.data):
                return
            if (parsed := self._reader.read(kind, message)) is not None:
                # An inbox, and nothing else: we shall not speak in our name where somebody else sends us.
                await handler(parsed, message.reply if message.reply.startswith(INBOX) else "")

        await listen(self._client, subject, receive)

    async def ask(self, subject: str, message: Message, kind: type[MessageT], timeout_s: float) -> MessageT:
        """Publish a message and return the answer, which comes to an inbox that only the one who answers is told.

        Raises:
            ServiceError: if nobody answers within the time, or not with what was asked for.
        """
        try:
            answer = await self._client.request(subject, message.model_dump_json().encode(), timeout=timeout_s)
        except NoRespondersError as error:
            raise ServiceError(f"nobody listens on {subject}") from error
        except TimeoutError as error:  # nats.errors.TimeoutError, too
            raise ServiceError(f"no answer on {subject} within {timeout_s:g} s") from error
        except (NatsError, OSError) as error:
            raise ServiceError(f"asking on {subject} failed ({words(error)})") from error
        try:
            return kind.model_validate_json(answer.data)
        except ValidationError as error:
            raise ServiceError(f"the answer on {subject} is no {kind.__name__}: use the same lwd everywhere") from error

    async def set_policy_pointer(self, pointer: PolicyPointer) -> None:
        """Store the pointer in the KV and ring everybody.

        Raises:
            ServiceError: if the bus is down; robots then find the policy in the store, later.
        """
        self._require_connection()
        try:
            bucket = await ensure_bucket(self._jetstream, self._replicas)
            await bucket.put(POINTER_KEY, pointer.model_dump_json().encode())
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"announcing policy {pointer.version} failed ({self._words(error)})") from error
        await self.publish(POLICY_SUBJECT, pointer)

    async def get_policy_pointer(self) -> PolicyPointer | None:
        """Return the pointer that was set last, None if there is none.

        Raises:
            ServiceError: if the bus is down.
        """
        self._require_connection()
        try:
            bucket = await self._jetstream.key_value(BUCKET)
            value = (await bucket.get(POINTER_KEY)).value
        except (KeyNotFoundError, BucketNotFoundError):
            return None
        except (NatsError, OSError, TimeoutError) as error:
            raise ServiceError(f"reading the policy pointer failed ({self._words(error)})") from error
        try:
            return PolicyPointer.model_validate_json(value or b"")
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise ServiceError(
                f"the policy pointer in KV bucket {BUCKET} is unreadable ({reason}); the next policy replaces it"
            ) from error

    def _words(self, error: Exception) -> str:
        return f"{words(error)}{remedy(error, self._directory)}"

    def _require_connection(self) -> None:
        """Fail at once rather than after a timeout."""
        if not self._client.is_connected:
            raise ServiceError("the bus is disconnected; it reconnects by itself")

    async def _publish_announcement(self, announcement: EpisodeAnnouncement) -> None:
        await self._jetstream.publish(
            episode_subject(announcement.robot_id),
            announcement.model_dump_json().encode(),
            timeout=_CALL_TIMEOUT_S,
            # With the hash, which nobody else knows yet: who repeats the id of another's announcement would hide it.
            headers={"Nats-Msg-Id": f"{announcement.key} {announcement.sha256}"},
        )

    async def _drop_subscription(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            try:
                await pull.unsubscribe()
            except (NatsError, OSError) as error:
                _logger.info("bus: unsubscribe: %s", error)
