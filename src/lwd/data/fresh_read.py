"""Reading an object again, past the caches that a first, damaged read may have come from."""

from typing import Protocol, runtime_checkable

from lwd.data.store import ObjectStore


@runtime_checkable
class CachedStore(Protocol):
    """A store whose objects the operating system keeps in memory."""

    def evict(self, key: str) -> None:
        """Drop an object from that memory; where that is not possible, do nothing."""


def get_past_caches(store: ObjectStore, key: str, *, max_bytes: int | None = None) -> bytes:
    """Return an object as the store's medium has it, by a request of its own.

    Raises:
        StoreError: as `ObjectStore.get`.
    """
    if isinstance(store, CachedStore):
        store.evict(key)
    return store.get(key) if max_bytes is None else store.get(key, max_bytes=max_bytes)
