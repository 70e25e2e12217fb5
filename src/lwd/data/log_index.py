"""The index: a snapshot as one Parquet file, so that SQL engines can query a fleet's episodes.

It is derived from the log and could be made again at any time.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lwd.errors import StoreError

INDEX_PREFIX = "index"
_KEY = b"lwd.index"
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
    revoked: tuple[str, ...]
    rows: list[dict[str, Any]]
    """One row per episode with the fields of its log entry."""


def index_key(version: int) -> str:
    """Return the key of a version's index."""
    return f"{INDEX_PREFIX}/{version:012d}.parquet"


def encode_index(version: int, epoch: int, rows: Sequence[Mapping[str, Any]], revoked: Sequence[str]) -> bytes:
    """Return the index of a snapshot as a Parquet file: one row per episode, in the order of the log."""
    header = json.dumps({"version": version, "epoch": epoch, "revoked": list(revoked)})
    table = pa.Table.from_pylist(list(rows), schema=_SCHEMA).replace_schema_metadata({_KEY: header.encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_index(data: bytes) -> LogIndex:
    """Read an index.

    Raises:
        StoreError: if it is damaged.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        header = json.loads(table.schema.metadata[_KEY])
        return LogIndex(
            version=int(header["version"]),
            epoch=int(header["epoch"]),
            revoked=tuple(header["revoked"]),
            rows=table.to_pylist(),
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"an index is damaged ({error!r}): delete it; the log has everything in it") from error
