"""The JetStream objects that a fleet needs: one stream, its one consumer, one KV bucket.

Any process may create any of them, at any time, several at once: creating what is there already is no error, what
is there with other settings is brought to ours, and a setting that cannot be changed is refused with its name.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError
from nats.js.kv import KeyValue

from lwd.errors import ServiceError
from lwd.fleet.messages import EPISODE_SUBJECT

STREAM = "LWD_EPISODES"
CONSUMER = "coordinator"
BUCKET = "lwd"
POINTER_KEY = "policy"
"""The newest policy's entry in the bucket."""
DEDUPE_WINDOW_S = 600.0
ACK_WAIT_S = 15.0
"""Short: after a crash of the coordinator its successor gets the messages soon. Duplicates are harmless."""
KEEP_S = 7 * 86_400.0
_MAX_ACK_PENDING = 8192
_FIXED = ("retention", "storage")
"""What NATS does not change in a stream that exists."""

_logger = logging.getLogger(__name__)


_DAMAGED = (10012, 10049)
"""NATS's error codes for files of a consumer or a stream that it cannot use."""


def remedy(error: BaseException, directory: Path | None) -> str:
    """Return what helps against files that NATS cannot use; empty for other errors.

    Args:
        directory: RUN/nats of the embedded server; None: the server is elsewhere.
    """
    if not isinstance(error, APIError) or error.err_code not in _DAMAGED:
        return ""
    if directory is not None:
        return f": its files are damaged; stop the run, delete {directory}, start again: nothing is lost with it"
    return f": its files are damaged; `nats stream rm {STREAM}` and KV_{BUCKET}: nothing is lost with them"


async def ensure_stream(jetstream: JetStreamContext, replicas: int | None) -> None:
    """Create the stream of announcements, or bring it to our settings.

    Args:
        replicas: None leaves an existing stream's number.
    Raises:
        ServiceError: if it exists with a setting that cannot be changed.
    """
    wanted: dict[str, Any] = {
        "subjects": [f"{EPISODE_SUBJECT}.>"],
        "retention": RetentionPolicy.WORK_QUEUE,
        "storage": StorageType.FILE,
        "duplicate_window": DEDUPE_WINDOW_S,
        "max_age": KEEP_S,
    }
    try:
        found = (await jetstream.stream_info(STREAM)).config
    except NotFoundError:
        found = (await jetstream.add_stream(StreamConfig(name=STREAM, num_replicas=replicas or 1, **wanted))).config
    await _bring_to(jetstream, found, wanted, replicas)


async def ensure_consumer(jetstream: JetStreamContext) -> None:
    """Create the coordinator's consumer, or bring it to our settings.

    Raises:
        ServiceError: if it exists with a setting that cannot be changed, or another consumer takes its messages.
    """
    wanted = ConsumerConfig(
        durable_name=CONSUMER,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=_MAX_ACK_PENDING,
        filter_subject=f"{EPISODE_SUBJECT}.>",
    )
    try:
        # NATS creates it, or changes it, or finds nothing to do.
        await jetstream.add_consumer(STREAM, wanted)
    except APIError as error:
        if error.code != 400:
            raise
        raise ServiceError(
            f"NATS refuses consumer {CONSUMER!r} of stream {STREAM} ({error.description}): delete the stream's "
            "consumers, nothing is lost with them"
        ) from error


async def ensure_bucket(jetstream: JetStreamContext, replicas: int | None) -> KeyValue:
    """Create the KV bucket, or bring it to our settings.

    Raises:
        ServiceError: if it exists with a setting that cannot be changed.
    """
    wanted: dict[str, Any] = {"storage": StorageType.FILE, "max_msgs_per_subject": 1}
    try:
        found = (await jetstream.stream_info(f"KV_{BUCKET}")).config
    except NotFoundError:
        return await jetstream.create_key_value(
            KeyValueConfig(bucket=BUCKET, history=1, storage=StorageType.FILE, replicas=replicas or 1)
        )
    await _bring_to(jetstream, found, wanted, replicas)
    return await jetstream.key_value(BUCKET)


async def _bring_to(
    jetstream: JetStreamContext, found: StreamConfig, wanted: Mapping[str, Any], replicas: int | None
) -> None:
    settings = dict(wanted) if replicas is None else {**wanted, "num_replicas": replicas}
    differing = {name: value for name, value in settings.items() if getattr(found, name) != value}
    for name in _FIXED:
        if name in differing:
            raise ServiceError(
                f"stream {found.name} has {name} {_word(getattr(found, name))}, it must be {_word(differing[name])}: "
                "delete the stream, nothing is lost with it; it is made again"
            )
    if not differing:
        return
    _logger.info("stream %s: %s", found.name, ", ".join(f"{name} is set to {v}" for name, v in differing.items()))
    try:
        await jetstream.update_stream(replace(found, **differing))
    except APIError as error:
        raise ServiceError(
            f"NATS does not set {', '.join(differing)} of stream {found.name} ({error.description})"
        ) from error


def _word(value: object) -> object:
    return getattr(value, "value", value)
