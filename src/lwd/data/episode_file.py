"""Episode <-> one immutable Arrow IPC file.

One row per control step plus one for the last observation, whose action and controller are null. The schema's
metadata holds the episode's description as JSON. Any Arrow tool can open the file.
"""

import json
import re
import unicodedata
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lwd.data.arrow_bounds import ArrowBounds, read_bounded_batch
from lwd.errors import EpisodeRejected, ShapeError
from lwd.types import Episode, EpisodeInfo, Outcome, Source

FORMAT = "lwd-episode-1"
MAX_FILE_BYTES = 256 * 2**20
MAX_DECOMPRESSED_BYTES = 2**28
MAX_STEPS = 1_000_000
MAX_WIDTH = 4096
"""Numbers in one state or action."""
MAX_STARTED_AT_S = 4_102_444_800.0
"""The year 2100. A robot's clock may be wrong by years; what lies beyond is no clock."""
_FORMAT_KEY = b"lwd.format"
_EPISODE_KEY = b"lwd.episode"
_IMAGE = "image."
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What identifiers look like that become parts of keys and file names."""
_CAMERA = re.compile(NAME_PATTERN)
_DIRECTION_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _readable(text: str) -> str:
    """Accept what a terminal, a log and a table show as it is."""
    if not text.strip() or any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _DIRECTION_OVERRIDES for letter in text
    ):
        raise ValueError("text must not be blank, nor hold control characters or direction overrides")
    return text


_Text = Annotated[str, AfterValidator(_readable)]


class _Description(BaseModel):
    """EpisodeInfo as it crosses the trust boundary."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    episode_id: str = Field(pattern=NAME_PATTERN)
    robot_id: str = Field(pattern=NAME_PATTERN)
    embodiment: _Text = Field(min_length=1, max_length=256)
    task: _Text = Field(min_length=1, max_length=256)
    instruction: _Text = Field(min_length=1, max_length=4096)
    source: Source = Field(strict=False)
    outcome: Outcome = Field(strict=False)
    policy_version: int = Field(ge=-1, lt=2**53)
    sub_step_scores: tuple[float, ...] = Field(max_length=1024)
    control_hz: float = Field(gt=0, le=100_000)
    seed: int = Field(ge=-(2**63), lt=2**63)
    world: _Text = Field(min_length=1, max_length=256)
    started_at_s: float = Field(ge=0, le=MAX_STARTED_AT_S)
    software_version: _Text = Field(max_length=256)
    operator_ids: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = Field(default=(), max_length=4096)
    operator_steps: tuple[Annotated[int, Field(ge=0, le=MAX_STEPS)], ...] = Field(default=(), max_length=4096)


def episode_key(robot_id: str, episode_id: str) -> str:
    """Return the key under which an episode is stored: the same for every retry."""
    return f"episodes/{robot_id}/{episode_id}.arrow"


def write_episode(episode: Episode) -> bytes:
    """Serialise an episode; the same episode gives the same bytes.

    Raises:
        ShapeError: if the lengths of its arrays do not agree.
    """
    steps = episode.steps
    lengths = {"states": len(episode.states_TS) - 1, "controllers": len(episode.controllers_T)}
    lengths |= {f"images of {camera}": len(frames) - 1 for camera, frames in episode.images.items()}
    if wrong := {name: length for name, length in lengths.items() if length != steps}:
        raise ShapeError(f"episode {episode.info.episode_id} has {steps} actions, but steps by {wrong}")
    columns: dict[str, pa.Array] = {
        "state": _matrix(episode.states_TS, rows=steps + 1),
        "action": _matrix(episode.actions_TA, rows=steps + 1),
        "controller": pa.array([*episode.controllers_T.tolist(), None], type=pa.uint8()),
    }
    for camera, frames in sorted(episode.images.items()):
        columns[_IMAGE + camera] = pa.array(frames, type=pa.binary())
    # Left out where nobody is named: readers of an older version know no such fields.
    unnamed = set() if episode.info.operator_ids else {"operator_ids", "operator_steps"}
    description = _Description.model_construct(**asdict(episode.info)).model_dump_json(exclude=unnamed)
    schema = pa.schema(
        [pa.field(name, column.type) for name, column in columns.items()],
        metadata={_FORMAT_KEY: FORMAT.encode(), _EPISODE_KEY: description.encode()},
    )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    return bytes(sink.getvalue())


def check_storable(episode: Episode) -> None:
    """Check that a written episode could be read again, but for its size.

    Raises:
        EpisodeRejected: naming the field that could not.
    """
    for name, values in (("state", episode.states_TS), ("action", episode.actions_TA)):
        if values.ndim != 2 or not 1 <= values.shape[1] <= MAX_WIDTH:
            raise EpisodeRejected(f"column {name} has shape {values.shape}; it has from 1 to {MAX_WIDTH} numbers a row")
    try:
        _Description.model_validate(asdict(episode.info))
    except ValidationError as error:
        raise _wrong_field(error) from error


def check_size(episode: Episode, frame_bytes: int) -> None:
    """Check the size of an episode of so many bytes of frames, before it is compressed.

    Raises:
        EpisodeRejected: if it is larger than an episode may be.
    """
    # Besides values and frames: offsets of the frames, marks of missing rows, a file's header.
    rows, cameras = episode.steps + 1, max(1, len(episode.images))
    numbers = 4 * (episode.states_TS.shape[1] + episode.actions_TA.shape[1]) + 4 * 64 // 8 + 1
    size = frame_bytes + rows * (numbers + 8 * cameras) + 2**16
    if size > MAX_DECOMPRESSED_BYTES:
        raise EpisodeRejected(
            f"the episode has about {size} bytes ({frame_bytes} of frames), more than {MAX_DECOMPRESSED_BYTES}: make "
            "its frames smaller, or record shorter episodes"
        )


def read_episode(data: bytes, *, max_steps: int = MAX_STEPS) -> Episode:
    """Read an episode file.

    Raises:
        EpisodeRejected: if it is damaged, of another format, or larger than an episode may be.
    """
    if len(data) > MAX_FILE_BYTES:
        raise EpisodeRejected(f"file has {len(data)} bytes, more than {MAX_FILE_BYTES}: record shorter episodes")
    bounds = ArrowBounds(max_bytes=MAX_DECOMPRESSED_BYTES, max_rows=max_steps + 1)
    batch = read_bounded_batch(data, bounds, _check_schema)
    info = _read_info(batch.schema.metadata or {})
    rows = batch.num_rows
    if rows < 2:
        raise EpisodeRejected(f"file has {rows} rows; an episode has at least one step and the last observation")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    controllers = columns["controller"]
    if controllers[: rows - 1].null_count or controllers[rows - 1].is_valid:
        raise EpisodeRejected("controller must be null in the last row only; record the episode again")
    return Episode(
        info=info,
        states_TS=_read_matrix(columns["state"], rows, "state"),
        actions_TA=_read_matrix(columns["action"], rows - 1, "action"),
        controllers_T=controllers[: rows - 1].to_numpy(),
        images={
            name.removeprefix(_IMAGE): _read_frames(column, name)
            for name, column in columns.items()
            if name.startswith(_IMAGE)
        },
    )


def _check_schema(schema: pa.Schema) -> None:
    """Look at every column's name and type, before any column is read."""
    names = schema.names
    cameras = [name for name in names if name.startswith(_IMAGE)]
    if sorted(names) != sorted({"state", "action", "controller", *cameras}):
        shown = [name[:100] for name in names[:20]]
        raise EpisodeRejected(f"columns are {shown}; expected state, action, controller and image.*, each once")
    for name, kind in zip(names, schema.types, strict=True):
        if name == "controller":
            expected, right = "uint8", kind == pa.uint8()
        elif name in ("state", "action"):
            expected = f"fixed_size_list<float>[n], n from 1 to {MAX_WIDTH}"
            right = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()
            right = right and 1 <= kind.list_size <= MAX_WIDTH
        else:
            expected, right = "binary", kind == pa.binary()
            if not _CAMERA.fullmatch(name.removeprefix(_IMAGE)):
                raise EpisodeRejected(f"column {name[:200]!r} is no camera: names match {NAME_PATTERN}")
        if not right:
            raise EpisodeRejected(f"column {name} has type {str(kind)[:200]}; expected {expected}")


def _read_info(metadata: dict[bytes, bytes]) -> EpisodeInfo:
    if metadata.get(_FORMAT_KEY) != FORMAT.encode():
        found = metadata.get(_FORMAT_KEY, b"missing").decode(errors="replace")
        raise EpisodeRejected(f"{_FORMAT_KEY.decode()} is {found!r}; this version reads {FORMAT!r}")
    text = metadata.get(_EPISODE_KEY, b"")
    try:
        description = _Description.model_validate_json(text)
    except ValidationError as error:
        raise _wrong_field(error) from error
    # Readers disagree on which of two equal keys counts. (The description is flat by now, so this cannot recurse.)
    keys = [key for key, _ in json.loads(text, object_pairs_hook=list)]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise EpisodeRejected(f"{twice[0]} is given twice in {_EPISODE_KEY.decode()}; correct it at the robot")
    return EpisodeInfo(**description.model_dump())


def _wrong_field(error: ValidationError) -> EpisodeRejected:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part)[:100] for part in first["loc"]) or _EPISODE_KEY.decode()
    return EpisodeRejected(f"{field} is {str(first['input'])[:200]!r}: {first['msg']}; correct it at the robot")


def _matrix(values: np.ndarray[Any, np.dtype[np.float32]], *, rows: int) -> pa.Array:
    """Return (n, width) float32 as a column of `rows` rows; the missing last one is null."""
    flat = np.ascontiguousarray(values, dtype=np.float32)
    padding = np.zeros((rows - len(flat), flat.shape[1]), np.float32)
    missing = np.arange(rows) >= len(flat)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.concatenate([flat, padding]).ravel()),
        flat.shape[1],
        mask=pa.array(missing) if missing.any() else None,
    )


def _read_matrix(column: pa.Array, rows: int, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the first `rows` rows as (rows, width) float32; all later rows must be null."""
    head = column[:rows]
    if head.null_count or column.null_count != len(column) - rows:
        raise EpisodeRejected(f"column {name} must have {rows} values, then nulls; it has {column.null_count} nulls")
    values = head.flatten()
    if values.null_count:
        raise EpisodeRejected(f"column {name} has missing numbers; record the episode again")
    matrix: np.ndarray[Any, np.dtype[np.float32]] = values.to_numpy().reshape(rows, column.type.list_size)
    return matrix


def _read_frames(column: pa.Array, name: str) -> tuple[bytes, ...]:
    if column.null_count:
        raise EpisodeRejected(f"column {name} has {column.null_count} gaps; every row needs a frame")
    return tuple(column.to_pylist())
