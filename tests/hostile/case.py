"""One hostile episode file, and what most of them are made with."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.validation import EpisodeLimits
from lwd.types import Episode

from ..unit.data.episodes import WITH_CAMERA, episode

STEPS = 20
LIMITS = EpisodeLimits(embodiment=WITH_CAMERA, max_steps=1000)
ROBOT = "robot-1"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file that must be quarantined, with a reason that contains `reason`."""

    name: str
    reason: str
    data: bytes
    key: str


def case(name: str, reason: str, data: bytes, *, key: str | None = None) -> Case:
    """Name a case after what is wrong with it; its name is also its episode's id."""
    return Case(name=name, reason=reason, data=data, key=key or episode_key(ROBOT, name))


def base(name: str, **info) -> Episode:
    """An episode in which nothing is wrong (it has one camera)."""
    return episode(steps=STEPS, cameras=True, **({"episode_id": name} | info))


def good(name: str) -> bytes:
    return write_episode(base(name))


def changed(name: str, field: str, step: int, value: float) -> bytes:
    whole = base(name)
    array = getattr(whole, field).copy()
    array[step] = value
    return write_episode(replace(whole, **{field: array}))


def table_of(data: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(data)).read_all()


def arrow_file(table: pa.Table, *, compression: str | None = None, batch_rows: int | None = None) -> bytes:
    """An Arrow file of any table, by Arrow itself."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=batch_rows)
    return bytes(sink.getvalue())


def with_column(name: str, column: str, array: pa.Array | pa.ChunkedArray) -> bytes:
    """A good file whose column has been exchanged."""
    table = table_of(good(name))
    return arrow_file(table.set_column(table.schema.names.index(column), column, array))


def with_text(name: str, text: bytes, *, form: bytes | None = b"lwd-episode-1") -> bytes:
    """A good file with another description."""
    metadata = {b"lwd.episode": text} | ({} if form is None else {b"lwd.format": form})
    return arrow_file(table_of(good(name)).replace_schema_metadata(metadata))


def description(name: str) -> dict:
    return json.loads(table_of(good(name)).schema.metadata[b"lwd.episode"])


def with_info(name: str, **changes) -> bytes:
    return with_text(name, json.dumps(description(name) | changes).encode())


def with_frames(name: str, frames: dict[int, bytes]) -> bytes:
    """A good file in which some frames have been exchanged."""
    whole = base(name)
    wrist = tuple(frames.get(step, frame) for step, frame in enumerate(whole.images["wrist"]))
    return write_episode(replace(whole, images={"wrist": wrist}))


def floats(rows: int, width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * width, np.float32)), width)
