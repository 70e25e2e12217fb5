"""Which store this is: a create-only object in it, and the note of everybody who must meet the same one again.

A path or a URL says where a store should be. Below an unmounted disk, or behind a name that resolves elsewhere,
another store answers: empty, or somebody else's. Its identity tells.
"""

import logging
import time
import uuid
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data import durable
from lwd.data.store import ObjectStore, get_or_none
from lwd.errors import ObjectExists, StoreError

IDENTITY_KEY = "store.json"
_MAX_BYTES = 4096
_logger = logging.getLogger(__name__)


class StoreIdentity(BaseModel):
    """The content of `store.json`, in the store itself and in the notes of who knows it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["lwd-store-1"] = "lwd-store-1"
    store_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    created_at_s: float
    """Unix time, for people."""


class OtherStore(StoreError):
    """What answers is not the store that it should be."""


def read_identity(store: ObjectStore) -> StoreIdentity | None:
    """Return the identity of a store; None for an empty one, and for one of an earlier version.

    Raises:
        StoreError: if the store cannot be read, or the identity is damaged.
    """
    data = get_or_none(store, IDENTITY_KEY)
    if data is None:
        return None
    try:
        return StoreIdentity.model_validate_json(data[:_MAX_BYTES])
    except ValidationError as error:
        raise StoreError(
            f"{IDENTITY_KEY} of the store {store} is damaged: restore it from a copy of the store, or "
            "`lwd data verify --run RUN --repair`"
        ) from error


def found_store(store: ObjectStore) -> StoreIdentity:
    """Return the identity of a store; one that has none (new, or of an earlier version) is given one, once.

    Raises:
        StoreError: if the store cannot be read or written, or its identity is damaged.
    """
    found = read_identity(store)
    if found is not None:
        return found
    made = StoreIdentity(store_id=uuid.uuid4().hex, created_at_s=time.time())
    try:
        store.create(IDENTITY_KEY, made.model_dump_json().encode())
    except ObjectExists:
        # Another process was faster: there is one identity, and it is the other's.
        found = read_identity(store)
        if found is None:
            raise
        return found
    _logger.info("the store %s has the identity %s from now on", store, made.store_id)
    return made


class StoreNote:
    """A local file that remembers which store its owner works with (RUN/known-store.json, a spool's store.json)."""

    def __init__(self, path: Path, owner: str) -> None:
        """
        Args:
            owner: for messages, such as "run runs/demo".
        """
        self.path = path
        self._owner = owner
        self._known: StoreIdentity | None = None

    def known(self) -> StoreIdentity | None:
        """Return the noted identity; None before one was noted.

        Raises:
            StoreError: if the note is damaged.
        """
        if self._known is None:
            try:
                self._known = StoreIdentity.model_validate_json(self.path.read_bytes()[:_MAX_BYTES])
            except (FileNotFoundError, NotADirectoryError):
                return None
            except ValidationError as error:
                raise StoreError(
                    f"{self.path} is damaged: once you have made sure that the right store is mounted, delete that "
                    "file; it is made again"
                ) from error
            except OSError as error:
                raise StoreError(f"cannot read {self.path} ({error.strerror}): check it and its permissions") from error
        return self._known

    def require(self, store: ObjectStore) -> StoreIdentity | None:
        """Compare the store with the note; the first identity that is met is noted.

        Returns:
            The identity; None if the store has none and none was ever noted.
        Raises:
            OtherStore: if this is another store than the noted one.
            StoreError: if the store cannot be read.
        """
        known, found = self.known(), read_identity(store)
        if known is None:
            if found is not None:
                self._known = found
                try:
                    self.write(found)
                except StoreError as error:
                    # A full disk must not keep a spool from getting empty, nor a reader without rights from reading.
                    _logger.warning("%s; the store's identity is known to this process alone", error)
            return found
        if found is None or found.store_id != known.store_id:
            raise OtherStore(
                f"the store at {store} is not the store of {self._owner} (expected {known.store_id[:12]}, found "
                f"{'none' if found is None else found.store_id[:12]}; is the disk mounted, is the URL right?)"
            )
        return found

    def write(self, identity: StoreIdentity) -> None:
        """Note an identity durably, in place of an earlier one.

        Raises:
            StoreError: if the note cannot be written.
        """
        durable.replace(self.path, identity.model_dump_json().encode())
        self._known = identity
