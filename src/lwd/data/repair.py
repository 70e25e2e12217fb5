"""What `lwd data verify --repair` does: a damaged object is set aside, and where it can be made again, it is."""

import uuid
from collections.abc import Iterator, Mapping

from lwd.data import durable
from lwd.data.store import Created, DirectoryStore, ObjectStore, StoredObject, get_or_none
from lwd.errors import ObjectMissing, StoreError

DAMAGED_PREFIX = "damaged"
"""Where what was damaged lies afterwards, under its own key; nothing reads it."""


def repair_store(store: ObjectStore, replacements: Mapping[str, bytes | None]) -> list[str]:
    """Replace objects, keeping what was there below `damaged/`. It may be killed and repeated.

    Args:
        replacements: new content by key, in the order in which to do it; None: only set aside.
    Returns:
        What was done, a line for each key.
    Raises:
        StoreError: if the store fails, or another process wrote one of the objects meanwhile.
    """
    aside, done = f"{DAMAGED_PREFIX}/{uuid.uuid4().hex[:12]}", []
    for key, data in replacements.items():
        if durable.is_temporary(key.rpartition("/")[2]):
            if isinstance(store, DirectoryStore):
                durable.remove(store.root / key)
                done.append(f"{key}: removed")
            continue
        before = get_or_none(store, key)
        if before is not None:
            store.create(f"{aside}/{key}", before)
            store.delete(key)
        if data is not None:
            store.create(key, data)
        was = "" if before is None else f"set aside as {aside}/{key}"
        done.append(f"{key}: " + ", ".join(part for part in (was, "made again" if data is not None else "") if part))
    return done


class Overlay:
    """A store as it will be after a repair, for reading."""

    def __init__(self, store: ObjectStore, replacements: Mapping[str, bytes | None]) -> None:
        self._store, self._replacements = store, replacements

    def __str__(self) -> str:
        return str(self._store)

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if key not in self._replacements:
            return self._store.get(key, max_bytes=max_bytes)
        if (data := self._replacements[key]) is None:
            raise ObjectMissing(f"no object {key} in {self}")
        return data

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        return self._store.list(prefix, start_after)

    def create(self, key: str, data: bytes) -> Created:
        raise StoreError(f"{key} is not written: this is a plan of a repair")

    def delete(self, key: str) -> None:
        raise StoreError(f"{key} is not deleted: this is a plan of a repair")
