"""What a spool must have seen before it deletes an episode: its log entry, read now, from the store that it knows.

What a poll said earlier is not enough. Between it and the deletion the store may have become another one.
"""

from collections.abc import Iterable

from lwd.data.identity import StoreNote
from lwd.data.log import CommittedEpisode, log_key, read_entry
from lwd.data.store import ObjectStore
from lwd.errors import ObjectMissing, ObjectTooLarge, StoreError


class CommitProof:
    """Reads log entries for the deletions of one look at the log: the identity once, and every entry once."""

    def __init__(self, store: ObjectStore, note: StoreNote) -> None:
        """Compare the store with the spool's note.

        Raises:
            StoreError: if it is another store, has no identity, or cannot be read.
        """
        if note.require(store) is None:
            raise StoreError(
                f"the store at {store} has no identity yet: start `lwd coordinator`; until then episodes stay in "
                "the spool"
            )
        self._store, self._note = store, note
        self._read: dict[int, frozenset[tuple[str, str]]] = {}

    def holds(self, episode: CommittedEpisode) -> bool:
        """Whether the store's log has this episode under its version, with the same hash.

        Raises:
            StoreError: if the entry is missing or damaged, or the store cannot be read.
        """
        version = episode.version
        if version not in self._read:
            entry = read_entry(version, self._store.get(log_key(version)))
            self._read[version] = frozenset((item.key, item.sha256) for item in entry.added)
        return (episode.entry.key, episode.entry.sha256) in self._read[version]

    def require(self, episodes: Iterable[CommittedEpisode]) -> None:
        """Make sure that the log holds all of them.

        Raises:
            StoreError: if it does not.
        """
        for episode in episodes:
            if not self.holds(episode):
                raise StoreError(
                    f"version {episode.version} of the log in {self._store} does not hold episode "
                    f"{episode.entry.episode_id}, as it did before: is it another store, or an older copy? The "
                    "episode stays in the spool"
                )
        # What was read in between was read from that store.
        self._note.require(self._store)


def is_stored(store: ObjectStore, key: str) -> bool:
    """Whether there is an object of at least one byte; nothing is downloaded.

    Raises:
        StoreError: if the store cannot be reached.
    """
    try:
        store.get(key, max_bytes=0)
    except ObjectTooLarge:
        return True
    except ObjectMissing:
        return False
    return True
