"""The final check: everything that a spool called safe is in the log exactly once, byte for byte."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lwd.data.log import CommittedEpisode, LogReader, log_key
from lwd.data.store import ObjectStore


def assert_exactly_once(
    store: ObjectStore, journals: Mapping[str, Mapping[str, str]], spools: Path, *, episodes: int
) -> list[CommittedEpisode]:
    """Compare log, store, journals and spools.

    Args:
        journals: by writer, SHA-256 by key.
        spools: RUN/spool; must be empty.
        episodes: how many there must be.
    Returns:
        What the log holds, in its order.
    """
    reader = LogReader(store)
    reader.poll()  # raises if an episode is in the log twice
    committed = list(reader.snapshot.episodes.values())
    assert [item.key for item in store.list("log")] == [log_key(v) for v in range(1, reader.version + 1)]
    logged = {item.entry.key: item.entry.sha256 for item in committed}
    journalled = {key: sha256 for journal in journals.values() for key, sha256 in journal.items()}
    assert len(committed) == len({item.entry.episode_id for item in committed}) == episodes
    assert logged == journalled
    with ThreadPoolExecutor(4) as pool:
        stored = pool.map(
            lambda item: (item.key, hashlib.sha256(store.get(item.key)).hexdigest()), store.list("episodes")
        )
        assert dict(stored) == logged
    assert list(store.list("quarantine")) == []
    assert not list(spools.glob("*/*.arrow"))
    assert not list(spools.glob("*/rejected/*"))
    return committed
