"""Episodes that may not enter the replay: the reason is kept beside them, nothing is ever dropped.

Verdict number n on an object is `quarantine/<hash of its key>-n.json` (without -n where it is 0). Who finds it wrong
releases the object: `...released.json` beside the verdict, which stays. Then the object is judged anew; what is
refused again gets verdict n + 1. All of them are created once and never changed.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.store import ObjectStore, StoredObject
from lwd.errors import ConfigError, ObjectExists, ObjectMissing, StoreError

QUARANTINE_PREFIX = "quarantine"
_MAX_REASON = 2000
_MAX_RECORD_BYTES = 2**16
_RECORD = re.compile(rf"^{QUARANTINE_PREFIX}/([0-9a-f]{{64}})(?:-([0-9]{{4}}))?(\.released)?\.json$")


class QuarantineRecord(BaseModel):
    """Why an object below `episodes/` is not in the log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["lwd-quarantine-1"] = "lwd-quarantine-1"
    key: str
    reason: str
    quarantined_at_s: float
    sha256: str | None = None
    """Of the bytes that were judged; None where none were read."""


class ReleaseRecord(BaseModel):
    """Why a verdict does not count any more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["lwd-release-1"] = "lwd-release-1"
    key: str
    reason: str = Field(max_length=2 * _MAX_REASON)
    released_at_s: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an object stands."""

    verdict: QuarantineRecord | None = None
    """Why it is quarantined; None if it is not."""
    released: bool = False
    """Whether it was quarantined, and is to be judged anew."""


@dataclass(frozen=True, kw_only=True)
class QuarantineCase:
    """All records of one object, as a listing names them."""

    name: str
    """`case_name` of the object's key."""
    records: tuple[StoredObject, ...]
    """In the order in which retention may remove them: one that stays alone never looks like a release."""
    newest: StoredObject | None
    """The verdict that counts; None if the object is released."""


def case_name(episode_object_key: str) -> str:
    """Return what the records of an object are called; the hash makes any key a name."""
    return hashlib.sha256(episode_object_key.encode(errors="surrogateescape")).hexdigest()


def quarantine_key(episode_object_key: str, number: int = 0) -> str:
    """Return where verdict `number` on an object lies."""
    return _verdict_key(case_name(episode_object_key), number)


def readable(text: str) -> str:
    """Return a stranger's text as one bounded line that is safe to log and to store."""
    shown = text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}... ({len(text)} characters)"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def quarantine(store: ObjectStore, key: str, reason: str, *, sha256: str | None = None) -> None:
    """Record why the object `key` is refused, as `readable` text; of one verdict the first reason stays.

    Raises:
        StoreError: if the store cannot be written.
    """
    name, number = case_name(key), 0
    while _read(store, _release_key(name, number)) is not None:
        number += 1
    record = QuarantineRecord(key=readable(key), reason=readable(reason), quarantined_at_s=time.time(), sha256=sha256)
    try:
        # Without fields that are None: a program from before they existed reads the rest.
        store.create(_verdict_key(name, number), record.model_dump_json(exclude_none=True).encode())
    except ObjectExists:
        return


def release(store: ObjectStore, name: str, *, reason: str) -> None:
    """Take an object out of quarantine: a coordinator judges it anew.

    Args:
        name: of the case (`case_name`).
    Raises:
        ConfigError: if it is not quarantined.
        StoreError: if the store cannot be written.
    """
    number = 0
    while (verdict := _read(store, _verdict_key(name, number))) is not None:
        if _read(store, _release_key(name, number)) is None:
            break
        number += 1
    else:
        said = "is released already" if number else "is not quarantined"
        raise ConfigError(f"case {name} {said}: `lwd data quarantine` lists what is")
    try:
        key = QuarantineRecord.model_validate_json(verdict).key
    except ValidationError:
        key = ""
    record = ReleaseRecord(key=key, reason=readable(reason), released_at_s=time.time())
    try:
        store.create(_release_key(name, number), record.model_dump_json().encode())
    except ObjectExists:
        return  # somebody else released it at the same time


def standing(store: ObjectStore, key: str) -> Standing:
    """Return where an object stands.

    Raises:
        StoreError: if the store cannot be read, or if the verdict that counts is damaged.
    """
    name, number = case_name(key), 0
    while (verdict := _read(store, _verdict_key(name, number))) is not None:
        if _read(store, _release_key(name, number)) is None:
            return Standing(verdict=_parse(verdict, _verdict_key(name, number)))
        number += 1
    return Standing(released=number > 0)


def find_quarantined(store: ObjectStore, key: str) -> QuarantineRecord | None:
    """Return the verdict on an object, None if it is not quarantined.

    Raises:
        StoreError: as `standing`.
    """
    return standing(store, key).verdict


def list_cases(store: ObjectStore) -> dict[str, QuarantineCase]:
    """Return all cases by name, by a listing alone; what is no record is passed over.

    Raises:
        StoreError: if the store cannot be listed.
    """
    found: dict[str, list[tuple[int, bool, StoredObject]]] = {}
    for item in store.list(QUARANTINE_PREFIX):
        if (match := _RECORD.match(item.key)) is not None:
            found.setdefault(match[1], []).append((int(match[2] or 0), bool(match[3]), item))
    cases = {}
    for name, records in found.items():
        records.sort(key=lambda record: record[:2])
        _, released, newest = records[-1]
        cases[name] = QuarantineCase(
            name=name,
            records=tuple(item for _, _, item in records),
            newest=None if released else newest,
        )
    return cases


def read_quarantine(store: ObjectStore) -> list[QuarantineRecord]:
    """Return the verdicts that count. Of one that is damaged: its own key, and what to do as its reason.

    Raises:
        StoreError: if the store cannot be read.
    """
    return [record for _, record in open_cases(store)]


def open_cases(store: ObjectStore) -> Iterator[tuple[QuarantineCase, QuarantineRecord]]:
    """Yield the cases whose object is quarantined, with the verdict that counts; see `read_quarantine`."""
    for case in list_cases(store).values():
        if case.newest is None or (data := _read(store, case.newest.key)) is None:
            continue
        try:
            record = _parse(data, case.newest.key)
        except StoreError as error:
            record = QuarantineRecord(
                key=case.newest.key, reason=readable(str(error)), quarantined_at_s=case.newest.modified_s
            )
        yield case, record


def _verdict_key(name: str, number: int) -> str:
    return f"{QUARANTINE_PREFIX}/{name}{f'-{number:04d}' if number else ''}.json"


def _release_key(name: str, number: int) -> str:
    return f"{_verdict_key(name, number).removesuffix('.json')}.released.json"


def _read(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)[:_MAX_RECORD_BYTES]
    except ObjectMissing:
        return None


def _parse(data: bytes, key: str) -> QuarantineRecord:
    try:
        return QuarantineRecord.model_validate_json(data)
    except ValidationError as error:
        raise StoreError(
            f"{key} is no quarantine record ({error.errors(include_url=False)[0]['msg']}): have its object judged "
            f"anew with `lwd data quarantine --release {key}`"
        ) from error
