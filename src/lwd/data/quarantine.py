"""Episodes that may not enter the replay: the reason is kept beside them, nothing is ever dropped."""

import hashlib
import logging
import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lwd.data.store import ObjectStore, get_or_none
from lwd.errors import ObjectExists, StoreError

QUARANTINE_PREFIX = "quarantine"
_MAX_REASON = 2000
_logger = logging.getLogger(__name__)


class QuarantineRecord(BaseModel):
    """Why an object below `episodes/` is not in the log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["lwd-quarantine-1"] = "lwd-quarantine-1"
    key: str
    reason: str
    quarantined_at_s: float


def quarantine_key(episode_object_key: str) -> str:
    """Return where the record of an object lies; the hash makes any key a name."""
    return f"{QUARANTINE_PREFIX}/{hashlib.sha256(episode_object_key.encode(errors='surrogateescape')).hexdigest()}.json"


def readable(text: str) -> str:
    """Return a stranger's text as one bounded line that is safe to log and to store."""
    shown = text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}... ({len(text)} characters)"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def quarantine(store: ObjectStore, key: str, reason: str) -> None:
    """Record why the object `key` is refused, as `readable` text; the first reason stays.

    Raises:
        StoreError: if the store cannot be written.
    """
    record = QuarantineRecord(key=readable(key), reason=readable(reason), quarantined_at_s=time.time())
    try:
        store.create(quarantine_key(key), record.model_dump_json().encode())
    except ObjectExists:
        return


def find_quarantined(store: ObjectStore, key: str) -> QuarantineRecord | None:
    """Return the record of an object; None if it is not quarantined, or if its record is damaged."""
    try:
        data = get_or_none(store, quarantine_key(key))
        return None if data is None else _record(quarantine_key(key), data)
    except _Damaged as error:
        _logger.warning("%s", error)
        return None


def quarantined_keys(store: ObjectStore) -> set[str]:
    """Return the keys of all records (not of the objects)."""
    return {item.key for item in store.list(QUARANTINE_PREFIX)}


def read_quarantine(store: ObjectStore) -> list[QuarantineRecord]:
    """Return all records.

    Raises:
        StoreError: if the store cannot be read, or a record is damaged.
    """
    found = {key: get_or_none(store, key) for key in quarantined_keys(store)}
    return [_record(key, data) for key, data in found.items() if data is not None]


class _Damaged(StoreError):
    """A record that is none."""


def _record(key: str, data: bytes) -> QuarantineRecord:
    try:
        return QuarantineRecord.model_validate_json(data)
    except ValidationError as error:
        raise _Damaged(
            f"{key} is no quarantine record: `lwd data verify --run RUN --repair` sets it aside, and its episode is "
            "judged again"
        ) from error
