"""Selected episodes as one tar file, streamed: the run's robot, a line per episode, and the episodes' own files."""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence

from lwd.data.leases import SnapshotLease
from lwd.data.log import CommittedEpisode
from lwd.data.store import ObjectStore
from lwd.errors import StoreError

EMBODIMENT = "embodiment.json"
MANIFEST = "episodes.jsonl"


def tar_of(store: ObjectStore, items: Sequence[CommittedEpisode], snapshot: int, embodiment: bytes) -> Iterator[bytes]:
    """Yield the bytes of a tar file; one episode is in memory at a time.

    Args:
        snapshot: that the episodes are of; retention leaves them alone until the last byte.
        embodiment: content of `embodiment.json`.
    Raises:
        StoreError: if an episode cannot be read, or is not the one that was committed: what was yielded is then no
            whole tar file.
    """
    with SnapshotLease(store, snapshot):
        lines = [json.dumps({**item.entry.model_dump(mode="json"), "snapshot": item.version}) for item in items]
        yield from _file(EMBODIMENT, embodiment)
        yield from _file(MANIFEST, "".join(f"{line}\n" for line in lines).encode())
        for item in items:
            data = store.get(item.entry.key)
            if hashlib.sha256(data).hexdigest() != item.entry.sha256:
                raise StoreError(f"{item.entry.key} is not the episode that was committed: restore it from a copy")
            yield from _file(f"{item.entry.identity}.arrow", data, int(item.entry.started_at_s))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _file(name: str, data: bytes, time_s: int = 0) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), time_s
    yield info.tobuf(tarfile.PAX_FORMAT)
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)
