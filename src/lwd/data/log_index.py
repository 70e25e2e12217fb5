"""The index: a snapshot as one Parquet file, so that SQL engines can query a fleet's episodes.

It is derived from the log and could be made again at any time.
"""

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from lwd.data.store import ObjectStore
from lwd.errors import ObjectExists, StoreError

INDEX_PREFIX = "index"
_logger = logging.getLogger(__name__)
_KEY = b"lwd.index"
_SEAL = "lwd.seal"
_SEAL_MARK = b"lwd-sha256:"
_SEAL_LENGTH = 64
_SCHEMA = pa.schema(
    [
        ("episode_id", pa.string()),
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("robot_id", pa.string()),
        ("embodiment", pa.string()),
        ("task", pa.string()),
        ("instruction", pa.string()),
        ("source", pa.string()),
        ("outcome", pa.string()),
        ("world", pa.string()),
        ("policy_version", pa.int64()),
        ("steps", pa.int64()),
        ("human_steps", pa.int64()),
        ("interventions", pa.int64()),
        ("sub_step_scores", pa.list_(pa.float64())),
        ("control_hz", pa.float64()),
        ("started_at_s", pa.float64()),
        ("uploaded_at_s", pa.float64()),
        ("version", pa.int64()),
        ("committed_at_s", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class LogIndex:
    """A snapshot as read from its index."""

    version: int
    epoch: int
    sha256: str
    """Of the log entry of that version, so that an index of another log is recognised."""
    revoked: tuple[str, ...]
    rows: list[dict[str, Any]]
    """One row per episode with the fields of its log entry."""


def index_key(version: int) -> str:
    """Return the key of a version's index."""
    return f"{INDEX_PREFIX}/{version:012d}.parquet"


class IndexDamaged(StoreError):
    """An index cannot be read; the log has everything that is in it."""


CommittedRow = tuple[BaseModel, int, float]
"""Log entry of an episode, version and time of its commit."""


class IndexTable:
    """The rows of the last index, kept so that the next one costs what is new and not what there is."""

    def __init__(self) -> None:
        self.version = 0
        self.busy = False
        """Whether an update is under way; only one may be."""
        self._rows: pa.Table = _SCHEMA.empty_table()

    def advance(self, version: int, added: Sequence[CommittedRow], revoked: Sequence[str]) -> pa.Table:
        """Add and remove what leads to `version`, and return all rows."""
        rows = [
            {**entry.model_dump(mode="json"), "version": added_at, "committed_at_s": committed_at_s}
            for entry, added_at, committed_at_s in added
        ]
        table = pa.concat_tables([self._rows, pa.Table.from_pylist(rows, schema=_SCHEMA)]).combine_chunks()
        names = pa.array(revoked, pa.string())
        ids = table.column("episode_id")
        identities = pc.binary_join_element_wise(table.column("robot_id"), ids, "/")
        # The id alone: what an old log revoked.
        gone = pc.or_(pc.is_in(identities, value_set=names), pc.is_in(ids, value_set=names))
        self._rows, self.version = table.filter(pc.invert(gone)), version
        return self._rows


@dataclass(frozen=True, kw_only=True)
class IndexUpdate:
    """An index that is due, as values that no later commit changes."""

    store: ObjectStore
    table: IndexTable
    version: int
    epoch: int
    sha256: str
    added: Sequence[CommittedRow]
    """Every live episode that is newer than the table."""
    revoked: Sequence[str]

    def __post_init__(self) -> None:
        self.table.busy = True

    def write(self) -> bool:
        """Store the index. Returns whether it is new; a failure is logged, the next index makes up for it."""
        try:
            table = self.table.advance(self.version, self.added, self.revoked)
            data = encode_index(self.version, self.epoch, table, self.revoked, self.sha256)
            self.store.create(index_key(self.version), data)
        except ObjectExists:
            # Another coordinator wrote it, with another library version perhaps; both say the same.
            return False
        except StoreError as error:
            _logger.warning("the index of version %d is not written: %s", self.version, error)
            return False
        finally:
            self.table.busy = False
        return True


def encode_index(version: int, epoch: int, table: pa.Table, revoked: Sequence[str], sha256: str) -> bytes:
    """Return the index of a snapshot as a Parquet file: one row per episode, in the order of the log.

    Args:
        sha256: of the version's log entry.
    """
    header = json.dumps({"version": version, "epoch": epoch, "sha256": sha256, "revoked": list(revoked)})
    table = table.replace_schema_metadata({_KEY: header.encode()})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_SEAL: (_SEAL_MARK + b"0" * _SEAL_LENGTH).decode()})
    return _sealed(sink.getvalue())


def read_index(data: bytes) -> LogIndex:
    """Read an index.

    Raises:
        IndexDamaged: if it cannot be read, or if one bit of it is not as it was written.
    """
    if _sealed(data) != data:
        raise IndexDamaged("its hash is missing or wrong: it is damaged, or was written by an earlier version")
    try:
        table = pq.read_table(io.BytesIO(data))
        header = json.loads(table.schema.metadata[_KEY])
        return LogIndex(
            version=int(header["version"]),
            epoch=int(header["epoch"]),
            sha256=str(header["sha256"]),
            revoked=tuple(header["revoked"]),
            rows=table.to_pylist(),
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise IndexDamaged(f"it is damaged ({error!r}): delete it; the log has everything in it") from error


def _sealed(data: bytes) -> bytes:
    """Return the file with the hash of all its other bytes where the mark is; empty without one.

    The mark is in the footer's own metadata, behind everything that an episode could bring in.
    """
    start = data.rfind(_SEAL_MARK) + len(_SEAL_MARK)
    if start < len(_SEAL_MARK) or start + _SEAL_LENGTH > len(data):
        return b""
    blank = data[:start] + b"0" * _SEAL_LENGTH + data[start + _SEAL_LENGTH :]
    return data[:start] + hashlib.sha256(blank).hexdigest().encode() + data[start + _SEAL_LENGTH :]
