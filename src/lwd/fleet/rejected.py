"""Refused episodes of a host: its copies stay until the verdict is final, and go back to work if it was wrong."""

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass

from lwd.data.identity import StoreNote
from lwd.data.log import LogReader
from lwd.data.quarantine import QuarantineRecord, standing
from lwd.data.store import ObjectStore
from lwd.errors import StoreError
from lwd.fleet.proof import CommitProof
from lwd.fleet.spool import Spool, SpooledEpisode

_FIRST_LOOK_S = 10.0
_MOST_LOOK_S = 320.0
_LOOKS = 8
"""The most looks at the store per call."""

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Kept:
    episode: SpooledEpisode
    look_at_s: float
    """Monotonic time."""
    rest_s: float = _FIRST_LOOK_S


class RejectedEpisodes:
    """Watches what lies in the spool's `rejected` directories."""

    def __init__(self, store: ObjectStore, spool: Spool, note: StoreNote) -> None:
        self._store = store
        self._spool = spool
        self._note = note
        self._kept: dict[str, _Kept] = {}

    def adopt(self, robot_ids: set[str]) -> None:
        """Take in what lies there now; people may have removed some, and another process may have left some."""
        found = {episode.identity: episode for episode in self._spool.rejected(robot_ids)}
        now_s = time.monotonic()
        self._kept = {
            identity: self._kept.get(identity) or _Kept(episode=episode, look_at_s=now_s)
            for identity, episode in found.items()
        }

    async def follow(self, log: LogReader) -> list[SpooledEpisode]:
        """Remove what was committed after all, and return what was released: it is back in the spool.

        Raises:
            StoreError: if store or disk fail; the next call goes on.
        """
        restored: list[SpooledEpisode] = []
        looks = 0
        for identity, kept in tuple(self._kept.items()):
            if time.monotonic() < kept.look_at_s or looks >= _LOOKS:
                continue
            looks += 1
            # First: one that fails comes after the others the next time.
            kept.look_at_s, kept.rest_s = time.monotonic() + kept.rest_s, min(2 * kept.rest_s, _MOST_LOOK_S)
            if log.knows(identity):
                await self._compare(log, kept)
            elif (await asyncio.to_thread(standing, self._store, kept.episode.key)).released:
                _logger.info("episode %s was released from quarantine: it is shipped again", identity)
                del self._kept[identity]
                restored.append(await asyncio.to_thread(self._spool.restore, kept.episode))
        return restored

    async def _compare(self, log: LogReader, kept: _Kept) -> None:
        found = log.find(kept.episode.identity)
        if found is None:
            return  # committed and revoked; what was committed is not known any more
        try:
            _, sha256 = await asyncio.to_thread(kept.episode.read)
        except OSError as error:
            raise StoreError(f"{kept.episode.path} cannot be read ({error.strerror}): check the disk") from error
        if sha256 == found.entry.sha256:
            await asyncio.to_thread(lambda: CommitProof(self._store, self._note).require([found]))
            await asyncio.to_thread(self._spool.remove, kept.episode)
            del self._kept[kept.episode.identity]


def verdict_in_words(record: QuarantineRecord, episode: SpooledEpisode, announced: str) -> str:
    """Return why an episode was refused, and whose fault it is: the file's, or that of who stores it.

    Args:
        announced: hash of the file when it was uploaded.
    Raises:
        OSError: if the file cannot be read.
    """
    if record.sha256 is None or record.sha256 == announced:
        return record.reason
    here = hashlib.sha256(episode.path.read_bytes()).hexdigest()
    if here == announced:
        return (
            f"{record.reason}\nThe file here has sha256 {here[:12]} as when it was uploaded, so the store's object "
            f"is damaged and this copy is good: `lwd data quarantine --release {episode.key} --replace` has it "
            "uploaded again."
        )
    return (
        f"{record.reason}\nThe file here has sha256 {here[:12]} and had {announced[:12]} when it was uploaded: check "
        "this machine's disk."
    )
