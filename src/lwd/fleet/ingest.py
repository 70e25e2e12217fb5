"""Put a set of episodes into a store without a fleet: offline data, imports, tests.

It takes the same road as the fleet's episodes (validation, create-only objects, one commit log).
"""

import hashlib
import time
from collections.abc import Iterable

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.store import ObjectStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import BatchResult, Coordinator
from lwd.fleet.judging import Candidate
from lwd.types import Episode


def ingest(store: ObjectStore, episodes: Iterable[Episode], limits: EpisodeLimits, *, batch: int = 64) -> BatchResult:
    """Upload and commit episodes, `batch` at a time. Repeating it commits nothing twice.

    Raises:
        ObjectExists: if an episode id is stored with other content.
        StoreError: if the store fails.
    """
    coordinator = Coordinator(store, limits)
    total = BatchResult()
    waiting: list[Candidate] = []

    def flush() -> None:
        result = coordinator.process(waiting)
        waiting.clear()
        if (index := coordinator.due_index()) is not None:
            index.write()
        total.committed += result.committed
        total.quarantined += result.quarantined
        total.known += result.known
        total.missing += result.missing

    for episode in episodes:
        key = episode_key(episode.info.robot_id, episode.info.episode_id)
        data = write_episode(episode)
        store.create(key, data)
        waiting.append(Candidate(key=key, uploaded_at_s=time.time(), sha256=hashlib.sha256(data).hexdigest()))
        if len(waiting) >= batch:
            flush()
    flush()
    return total
