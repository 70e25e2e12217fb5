"""Reads what comes on the bus's subjects. A message that is refused costs microseconds and at most a log line."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from pydantic import ValidationError

from lwd.fleet.complaints import Complaints
from lwd.fleet.messages import Message
from lwd.fleet.rate_limit import TokenBucket, TokenBuckets
from lwd.fleet.subjects import rule_of

_BURST_S = 3.0
_SUBJECTS = 8192
_SMALL_BYTES = 4096
_LARGEST = 16
"""A message of the largest size counts as so many small ones, where it is not small itself."""
_PENDING = 2048
"""Messages of one subscription that wait to be read; what comes beyond is dropped, so that none waits for long."""
_MUTED_FOR_S = 2.0

_logger = logging.getLogger(__name__)
MessageT = TypeVar("MessageT", bound=Message)
Handler = Callable[[Msg], Awaitable[None]]


class Reader:
    """Turns the bytes of one kind of message into messages, as far as its rule lets them pass."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints
        self._buckets: dict[type[Message], TokenBuckets] = {}

    def admits(self, kind: type[Message], message: Msg) -> bool:
        """Whether one more message of this subject may be read now; a large one counts as several."""
        subject, rule = message.subject, rule_of(kind)
        buckets = self._buckets.get(kind)
        if buckets is None:
            buckets = self._buckets[kind] = TokenBuckets(rule.rate_hz, _BURST_S * rule.rate_hz, most=_SUBJECTS)
        if buckets.take(subject, max(1.0, len(message.data) / max(_SMALL_BYTES, rule.max_bytes / _LARGEST))):
            return True
        self._complaints.warn(
            f"rate {subject[:200]}", "bus: dropped a %s on %s: too many a second", kind.__name__, subject[:200]
        )
        return False

    def read(self, kind: type[MessageT], message: Msg) -> MessageT | None:
        """Return the message; None if it is too large, unreadable, or says that it is somebody else's."""
        rule, subject = rule_of(kind), message.subject
        if len(message.data) > rule.max_bytes:
            reason = f"it has {len(message.data)} bytes, at most {rule.max_bytes} are read"
        else:
            try:
                parsed = kind.model_validate_json(message.data)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False, include_context=False)[0]
                reason = f"{'.'.join(map(str, first['loc'][:4]))[:100]}: {first['msg'][:200]}"
            else:
                own = rule.subject(parsed)
                if own in ("", subject):
                    return parsed
                reason = f"by its content it belongs on {own}"
        self._complaints.warn(
            f"{kind.__name__} {subject[:200]}", "bus: dropped a %s on %s: %s", kind.__name__, subject[:200], reason
        )
        return None


@dataclass(frozen=True, kw_only=True)
class Mute:
    """At more messages a second than this a subscription is given up for two seconds.

    A flood costs nothing meanwhile; whatever else comes then is lost.
    """

    above_hz: float
    on_mute: Callable[[float], None] = lambda _: None
    """Told for how many seconds nothing will be heard."""


async def listen(client: Client, subject: str, receive: Handler, *, mute: Mute | None = None) -> None:
    """Call `receive` with what comes on a subject."""
    if mute is None:
        await client.subscribe(subject, cb=receive, pending_msgs_limit=_PENDING)
    else:
        await _Muting(client, subject, receive, mute).listen()


class _Muting:
    def __init__(self, client: Client, subject: str, receive: Handler, mute: Mute) -> None:
        self._client, self._subject, self._receive, self._mute = client, subject, receive, mute
        self._bucket = TokenBucket(mute.above_hz, mute.above_hz)
        self._subscription: Subscription | None = None
        self._again: asyncio.TimerHandle | None = None
        self._listening: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._complaints = Complaints(_logger)

    async def listen(self) -> None:
        self._bucket = TokenBucket(self._mute.above_hz, self._mute.above_hz)
        with contextlib.suppress(NatsError):  # the connection is gone; another one subscribes anew
            self._subscription = await self._client.subscribe(
                self._subject, cb=self._heard, pending_msgs_limit=_PENDING
            )

    async def _heard(self, message: Msg) -> None:
        if self._bucket.take():
            await self._receive(message)
            return
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        self._complaints.warn(
            "muted",
            "bus: more than %.0f messages a second on %s: nobody listens there for %.0f s",
            self._mute.above_hz,
            self._subject,
            _MUTED_FOR_S,
        )
        self._mute.on_mute(_MUTED_FOR_S)
        self._again = asyncio.get_running_loop().call_later(_MUTED_FOR_S, self._listen_again)
        # In a task of its own: it ends the one that we are called in.
        self._leaving = asyncio.create_task(_unsubscribe(subscription))

    def _listen_again(self) -> None:
        if not self._client.is_closed:
            self._listening = asyncio.get_running_loop().create_task(self.listen())


async def _unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(NatsError):
        await subscription.unsubscribe()
