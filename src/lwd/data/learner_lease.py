"""The lease of the one learner that publishes to a store.

Its generations are create-only objects `learner/lease-<generation>/claim`: of several learners that want the next one,
exactly one gets it. The holder adds a small object every RENEW_S. A lease without a new one for EXPIRES_S, by the
store's own times, is taken for dead; so is at once that of an earlier process of the same run on the same boot of the
same machine, because whoever holds the run's lock knows that no other process does.

A learner that slept for longer finds a newer generation in the store before it publishes.
"""

import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.leases import store_time_s
from lwd.data.outage import Outage
from lwd.data.store import ObjectStore, get_or_none
from lwd.errors import LeaseTaken, ObjectExists, StoreError

PREFIX = "learner"
RENEW_S = 15.0
EXPIRES_S = 120.0
_ATTEMPTS = 5
_KEY = re.compile(rf"^{PREFIX}/lease-(\d{{12}})/(claim|released|\d{{12}})$")

_logger = logging.getLogger(__name__)


class Claim(BaseModel):
    """Who holds a generation of the lease."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["lwd-learner-lease-1"] = "lwd-learner-lease-1"
    learner_id: str = Field(max_length=64)
    host: str = Field(max_length=255)
    pid: int
    since_s: float
    """Unix time, the learner's clock: for people."""
    run_lock: str = Field(max_length=200)
    """Names the run's lock file on its machine (`lock_identity`)."""


@dataclass(kw_only=True)
class _Generation:
    number: int
    released: bool = False
    newest: str = ""
    """Key of the newest object; changes with each renewal."""
    modified_s: float = 0.0
    keys: list[str] = field(default_factory=list)


def lock_identity(lock: Path) -> str:
    """Name a lock file so that no other one on this or another machine has the name, until this one boots again."""
    status = lock.stat()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    return f"{boot}:{status.st_dev}:{status.st_ino}"


class LearnerLease:
    """Held from its creation to `close`; a daemon thread renews it."""

    def __init__(
        self, store: ObjectStore, run_lock: str, *, renew_s: float = RENEW_S, expires_s: float = EXPIRES_S
    ) -> None:
        """Take the lease.

        Args:
            run_lock: of the run's lock, which this process holds.
        Raises:
            LeaseTaken: if another learner holds it; names its host, process and age.
            StoreError: if the store fails.
        """
        self._store, self._renew_s, self._expires_s = store, renew_s, expires_s
        self._claim = Claim(
            learner_id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            since_s=time.time(),
            run_lock=run_lock,
        )
        self._count = 0
        self._keys: list[str] = []
        self._taken = ""
        self.generation = self._take()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="learner-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the last renewal has found; does not wait for the store.

        Raises:
            LeaseTaken: if another learner has taken the lease.
        """
        if self._taken:
            raise LeaseTaken(self._taken)

    def require_held(self) -> None:
        """Look into the store whether this learner still holds the lease; before it publishes.

        Raises:
            LeaseTaken: if another learner has taken it.
            StoreError: if the store cannot be read.
        """
        self.check()
        newest = max(_generations(self._store), default=self.generation)
        if newest > self.generation:
            other = self._claim_of(newest)
            self._taken = (
                f"this learner stood still for more than {self._expires_s:.0f} s, and {_words(other)} has taken over "
                "the store: let that one go on; this one publishes nothing more"
            )
            self.check()

    def close(self) -> None:
        """Give the lease up."""
        self._stop.set()
        self._thread.join()
        if self._taken:
            return
        try:
            self._store.create(_key(self.generation, "released"), b"{}")
        except StoreError as error:
            _logger.warning("the learner's lease stays until it expires in %.0f s (%s)", self._expires_s, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- taking ----------------------------------------------------------------------------------------------------

    def _take(self) -> int:
        body = self._claim.model_dump_json().encode()
        for _ in range(_ATTEMPTS):
            generations = _generations(self._store)
            newest = generations[max(generations)] if generations else None
            if newest is not None and not newest.released:
                self._require_dead(newest)
            number = 1 if newest is None else newest.number + 1
            try:
                self._store.create(_key(number, "claim"), body)
            except ObjectExists:
                continue  # somebody was faster, and is alive
            # The one before stays: until the next start, it says who it was.
            for old in generations.values():
                if newest is not None and old.number < newest.number:
                    for key in old.keys:
                        self._store.delete(key)
            return number
        raise LeaseTaken("other learners take the store's lease again and again: stop all but one")

    def _require_dead(self, found: _Generation) -> None:
        """Return if the holder of a generation is dead, after watching it where only its age says so."""
        claim = self._claim_of(found.number)
        if claim is not None and claim.run_lock == self._claim.run_lock:
            _logger.info("the learner before this one, process %d, is dead: this one holds the run's lock", claim.pid)
            return
        age_s = store_time_s(self._store) - found.modified_s
        if age_s >= self._expires_s:
            # A clock that was set makes a live lease look old (a directory's times are its machine's): watch it.
            _logger.warning("%s seems dead: watching its lease for %.0f s", _words(claim), 2 * self._renew_s)
            time.sleep(2 * self._renew_s)
            now = _generations(self._store).get(found.number)
            if now is not None and now.newest == found.newest:
                return
            age_s = 0.0
        raise LeaseTaken(
            f"{_words(claim)} trains on this store, last seen {max(age_s, 0.0):.0f} s ago: stop it, or give this one a "
            f"store of its own. If it is dead, its lease ends in {self._expires_s - max(age_s, 0.0):.0f} s"
        )

    def _claim_of(self, number: int) -> Claim | None:
        data = get_or_none(self._store, _key(number, "claim"))
        try:
            return None if data is None else Claim.model_validate_json(data)
        except ValidationError:
            return None

    # ---- keeping ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        outage = Outage("the learner's lease cannot be renewed", "training goes on")
        while not self._stop.wait(self._renew_s):
            try:
                self._renew()
                self.require_held()
                outage.succeeded()
            except StoreError as error:
                outage.failed(error)
            except LeaseTaken as error:
                _logger.error("%s", error)
                return

    def _renew(self) -> None:
        self._keys.append(_key(self.generation, f"{self._count:012d}"))
        self._count += 1
        self._store.create(self._keys[-1], b"{}")
        # The one before stays: a listing that runs meanwhile may miss the new one.
        while len(self._keys) > 2:
            self._store.delete(self._keys[0])
            self._keys.pop(0)


def _generations(store: ObjectStore) -> dict[int, _Generation]:
    """Every generation that the store shows; those without a claim were cleaned up half."""
    found: dict[int, _Generation] = {}
    for item in store.list(PREFIX):
        if (match := _KEY.match(item.key)) is None:
            continue
        generation = found.setdefault(int(match[1]), _Generation(number=int(match[1])))
        generation.keys.append(item.key)
        if match[2] == "released":
            generation.released = True
        elif item.modified_s >= generation.modified_s:
            generation.newest, generation.modified_s = item.key, item.modified_s
    return found


def _key(generation: int, name: str) -> str:
    return f"{PREFIX}/lease-{generation:012d}/{name}"


def _words(claim: Claim | None) -> str:
    if claim is None:
        return "a learner whose claim cannot be read"
    since = datetime.fromtimestamp(claim.since_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"another learner (host {claim.host}, process {claim.pid}, since {since})"
