"""Anchors of the audit log in the store: create-only objects that say how many lines it had, and the last one's hash.

The chain alone does not show that its last lines were cut off, nor that the whole file was replaced.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.console.audit import AuditLog
from lwd.console.audit_file import FIRST, BrokenChain, chain
from lwd.data.store import ObjectStore
from lwd.errors import LWDError, ObjectExists

PREFIX = "audit"
_LOOK_S = 5.0
_EVERY_S = 60.0
_EVERY_LINES = 256
_MAX_BYTES = 4096

_logger = logging.getLogger(__name__)


class Anchor(BaseModel):
    """What a log was at one moment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of its first line."""
    lines: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of its last line."""

    @property
    def key(self) -> str:
        return f"{PREFIX}/{self.log_id[:16]}/{self.lines:012d}.json"


class AuditAnchors:
    """Anchors one console's log: once a minute, and after many lines sooner."""

    def __init__(self, audit: AuditLog, store: Callable[[], ObjectStore]) -> None:
        self._audit = audit
        self._store = store
        self._anchored: Anchor | None = None
        self._complaint = ""

    async def run(self) -> None:
        """Look at the log's past, then anchor what it becomes, until cancelled."""
        await self._try(self._look_back)
        waited_s = 0.0
        while True:
            await asyncio.sleep(_LOOK_S)
            waited_s += _LOOK_S
            before = 0 if self._anchored is None else self._anchored.lines
            if waited_s >= _EVERY_S or self._audit.state()[1] - before >= _EVERY_LINES:
                waited_s = 0.0
                await self._try(self.anchor)

    def anchor(self) -> None:
        """Anchor what the log is now.

        Raises:
            StoreError: if the store is not there.
        """
        log_id, lines, last = self._audit.state()
        if not lines:
            return
        anchor = Anchor(log_id=log_id, lines=lines, sha256=last)
        if anchor == self._anchored:
            return
        try:
            self._store().create(anchor.key, anchor.model_dump_json().encode())
        except ObjectExists:
            _logger.error("audit log %s: the store knows another line %d: look into it", self._audit.path, lines)
        self._anchored = anchor

    def _look_back(self) -> None:
        for finding in verify(self._audit.path, self._store()):
            _logger.error("audit log: %s", finding)
            self._audit.append("console", "log does not agree with the store", why=finding)

    async def _try(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(work)
            self._complaint = ""
        except (LWDError, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _logger.warning("the audit log is not anchored in the store: %s; trying again", error)


def verify(path: Path, store: ObjectStore) -> list[str]:
    """Compare a log, and those that were kept aside, with the store. Returns what is wrong, one sentence each.

    Raises:
        StoreError: if the store is not there.
        OSError: if a log cannot be read.
    """
    findings: list[str] = []
    logs: dict[str, tuple[str, list[str]]] = {}
    for file in sorted(path.parent.glob(f"{path.name}*")):
        hashes, broken = _hashes(file)
        if broken:
            findings.append(f"{file.name}: {broken}")
        if hashes:
            logs[hashes[0]] = (file.name, hashes)
    # The newest of each log says all that older ones do.
    newest = {item.key.rpartition("/")[0]: item.key for item in store.list(PREFIX)}
    for key in newest.values():
        try:
            anchor = Anchor.model_validate_json(store.get(key, max_bytes=_MAX_BYTES))
        except ValidationError:
            findings.append(f"{key} in the store is no anchor")
            continue
        if anchor.log_id not in logs:
            findings.append(f"the log that began with {anchor.log_id[:16]} had {anchor.lines} lines, and is not here")
            continue
        name, hashes = logs[anchor.log_id]
        if len(hashes) < anchor.lines:
            findings.append(f"{name} has {len(hashes)} lines, and had {anchor.lines}: its end was cut off")
        elif hashes[anchor.lines - 1] != anchor.sha256:
            findings.append(f"{name}: line {anchor.lines} is another one than it was")
    return findings


def _hashes(file: Path) -> tuple[list[str], str]:
    hashes: list[str] = []
    try:
        with file.open("rb") as lines:
            hashes.extend(last for _, last in chain(lines, FIRST, 0))
    except BrokenChain as error:
        return hashes, str(error)
    return hashes, ""
