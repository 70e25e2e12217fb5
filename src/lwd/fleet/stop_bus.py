"""The state of stops in the bus's KV bucket: what a host finds that was away when somebody stopped the robots."""

from nats.errors import Error as NatsError
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import ValidationError

from lwd.errors import ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.jetstream import BUCKET, ensure_bucket
from lwd.fleet.stop_messages import STOP_KEY, StopState

_TRIES = 8


async def read_stops(bus: Bus) -> StopState:
    """Return the kept state; an empty one if there is none.

    Raises:
        ServiceError: if the bus is down, or the entry cannot be read.
    """
    try:
        bucket = await bus.jetstream.key_value(BUCKET)
        return _parsed((await bucket.get(STOP_KEY)).value)
    except (KeyNotFoundError, BucketNotFoundError):
        return StopState()
    except (NatsError, OSError, TimeoutError) as error:
        raise ServiceError(f"the bus does not say whether the robots are stopped ({type(error).__name__})") from error


async def keep_stops(bus: Bus, state: StopState) -> StopState:
    """Merge a state into the kept one; return what is kept now. Several may do it at the same time.

    Raises:
        ServiceError: if the bus is down, or does not let us.
    """
    try:
        bucket = await ensure_bucket(bus.jetstream, bus.replicas)
        for _ in range(_TRIES):
            kept, revision = StopState(), 0
            try:
                entry = await bucket.get(STOP_KEY)
                kept, revision = _parsed(entry.value), entry.revision or 0
            except KeyNotFoundError as missing:
                revision = 0 if missing.entry is None else missing.entry.revision or 0
            if (merged := kept.merged(state)) == kept:
                return kept
            try:
                await bucket.update(STOP_KEY, merged.model_dump_json().encode(), last=revision)
            except KeyWrongLastSequenceError:
                continue
            return merged
    except (NatsError, OSError, TimeoutError) as error:
        raise ServiceError(f"the bus does not keep the stop ({type(error).__name__})") from error
    raise ServiceError(f"the bus does not keep the stop: others changed it {_TRIES} times meanwhile; try again")


def _parsed(value: bytes | None) -> StopState:
    try:
        return StopState.model_validate_json(value or b"")
    except ValidationError as error:
        raise ServiceError(
            f"entry {STOP_KEY!r} of KV bucket {BUCKET} is unreadable ({error.errors()[0]['msg']}): delete it with "
            f"`nats kv del {BUCKET} {STOP_KEY}`, then stop the robots again if they should be"
        ) from error
