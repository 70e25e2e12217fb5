"""Reads an Arrow IPC file of a stranger: every size and count is looked at before Arrow acts on it.

Arrow allocates what a buffer's header declares before it decompresses, and builds as many columns as a schema
names (a flatbuffer may name one table a million times), so a small hostile file can ask for any amount of memory
and time. This module reads the declared numbers first. It understands just as much of the flatbuffer encoding as
that needs (Arrow columnar format: Message.fbs, Schema.fbs, File.fbs). It also refuses files that say different
things to different readers: slack between the parts, overlapping buffers, a footer that is not the stream's.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from lwd.errors import EpisodeRejected

_MAGIC = b"ARROW1\0\0"
_END = b"ARROW1"
_CONTINUATION = 0xFFFFFFFF
_PREFIX_BYTES = 8
_SCHEMA, _RECORD_BATCH = 1, 3
"""MessageHeader in Arrow's Message.fbs."""
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH, _MESSAGE_CUSTOM_METADATA = 1, 2, 3, 4
_SCHEMA_ENDIANNESS, _SCHEMA_FIELDS, _SCHEMA_METADATA = 0, 1, 2
_FIELD_DICTIONARY, _FIELD_CHILDREN, _FIELD_METADATA = 4, 5, 6
_BATCH_LENGTH, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 2, 3
_FOOTER_SCHEMA, _FOOTER_DICTIONARIES, _FOOTER_BATCHES = 1, 2, 3
_UNCOMPRESSED = -1
"""Declared length of a buffer that was left as it is."""
_MAX_METADATA_ENTRIES = 16


@dataclass(frozen=True, kw_only=True)
class ArrowBounds:
    """What a file may ask for."""

    max_bytes: int
    """All decompressed buffers together."""
    max_rows: int
    max_columns: int = 64
    max_metadata_bytes: int = 2**18
    """One message's header; an episode's longest description takes a third of it."""


@dataclass(frozen=True, kw_only=True)
class _Message:
    start: int
    body: int
    end: int
    metadata: bytes


def read_bounded_batch(data: bytes, bounds: ArrowBounds, check_schema: Callable[[pa.Schema], None]) -> pa.RecordBatch:
    """Read an Arrow IPC file that holds exactly one record batch, and validate it fully.

    Args:
        data: the file.
        bounds: what it may ask for.
        check_schema: raises EpisodeRejected for a schema that is not wanted; called before any column is read.
    Raises:
        EpisodeRejected: if it is no such file, is damaged, or asks for more.
    """
    if not (len(data) > len(_MAGIC) and data.startswith(_MAGIC) and data.endswith(_END)):
        raise EpisodeRejected("file is no whole Arrow IPC file: a magic number is missing; send it again")
    try:
        # The file format is the stream format between a magic number and a footer.
        schema_message = _find_message(data, len(_MAGIC), bounds)
        batch_message = _find_message(data, schema_message.end, bounds)
        whole = pa.py_buffer(data)
        # Reading a message verifies its flatbuffer, so it comes before any look inside.
        messages = [
            pa.ipc.read_message(whole.slice(found.start, found.end - found.start))
            for found in (schema_message, batch_message)
        ]
        kinds = [message.type for message in messages]
        if kinds != ["schema", "record batch"] or schema_message.end != schema_message.body:
            raise EpisodeRejected(f"file holds the messages {kinds}; an episode is one schema and one record batch")
        _check_schema_table(schema_message.metadata, _header(schema_message.metadata, _SCHEMA), bounds)
        schema = pa.ipc.read_schema(messages[0])
        check_schema(schema)
        _check_batch(batch_message.metadata, data[batch_message.body : batch_message.end], bounds)
        _check_end(data, schema, batch_message, bounds)
        batch = pa.ipc.read_record_batch(messages[1], schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError, ValueError) as error:
        raise EpisodeRejected(f"file is damaged ({error}); send the episode again") from error
    return batch


def declared_bytes(metadata: bytes, body: bytes) -> int:
    """Return the sum of the decompressed sizes that a record batch message declares.

    Raises:
        EpisodeRejected: if a declared size is negative, or if buffers overlap or leave the body.
        struct.error: if the message is cut short.
    """
    batch = _header(metadata, _RECORD_BATCH)
    compressed = _field(metadata, batch, _BATCH_COMPRESSION) is not None
    vector, count = _vector(metadata, batch, _BATCH_BUFFERS)
    total = end = 0
    for number in range(count):
        offset, length = struct.unpack_from("<qq", metadata, vector + 16 * number)
        if length < 0 or offset < 0 or offset + length > len(body):
            raise EpisodeRejected(f"file's buffer {number} leaves the body ({length} bytes at {offset}); send it again")
        if length and offset < end:
            raise EpisodeRejected(f"file's buffer {number} overlaps the one before it; send the episode again")
        end = max(end, offset + length)
        size = length
        if compressed and length > 0:
            (declared,) = struct.unpack_from("<q", body, offset)
            size = length - 8 if declared == _UNCOMPRESSED else declared
        if size < 0:
            raise EpisodeRejected(f"file's buffer {number} declares {size} bytes; send the episode again")
        total += size
    return total


def _find_message(data: bytes, start: int, bounds: ArrowBounds) -> _Message:
    """Find the parts of the encapsulated message at `start`."""
    marker, size = struct.unpack_from("<II", data, start)
    if marker != _CONTINUATION or size == 0:
        raise EpisodeRejected(f"file has no message at byte {start}; an episode is one schema and one record batch")
    if size > bounds.max_metadata_bytes:
        raise EpisodeRejected(
            f"file has a message header of {size} bytes, more than {bounds.max_metadata_bytes}: "
            "shorten its schema and metadata"
        )
    body = start + _PREFIX_BYTES + size
    metadata = data[start + _PREFIX_BYTES : body]
    table = _indirect(metadata, 0)
    if _field(metadata, table, _MESSAGE_CUSTOM_METADATA) is not None:
        raise EpisodeRejected("file has custom metadata on a message; describe the episode in its schema only")
    length_field = _field(metadata, table, _MESSAGE_BODY_LENGTH)
    length = 0 if length_field is None else struct.unpack_from("<q", metadata, length_field)[0]
    if not 0 <= length <= len(data) - body:
        raise EpisodeRejected(f"file ends within a message of {length} bytes; send the episode again")
    return _Message(start=start, body=body, end=body + length, metadata=metadata)


def _header(metadata: bytes, kind: int) -> int:
    """Return the table that a message carries."""
    message = _indirect(metadata, 0)
    kind_field = _field(metadata, message, _MESSAGE_HEADER_TYPE)
    header_field = _field(metadata, message, _MESSAGE_HEADER)
    if kind_field is None or header_field is None or metadata[kind_field] != kind:
        raise EpisodeRejected(f"file's message is not of kind {kind}; record the episode again")
    return _indirect(metadata, header_field)


def _check_schema_table(data: bytes, schema: int, bounds: ArrowBounds) -> None:
    endianness = _field(data, schema, _SCHEMA_ENDIANNESS)
    if endianness is not None and struct.unpack_from("<h", data, endianness)[0]:
        raise EpisodeRejected("file's schema is big-endian; write it little-endian")
    _, entries = _vector(data, schema, _SCHEMA_METADATA)
    if entries > _MAX_METADATA_ENTRIES:
        raise EpisodeRejected(f"file's schema has {entries} metadata entries, more than {_MAX_METADATA_ENTRIES}")
    fields, columns = _vector(data, schema, _SCHEMA_FIELDS)
    if columns > bounds.max_columns:
        raise EpisodeRejected(f"file's schema has {columns} columns, more than {bounds.max_columns}")
    for number in range(columns):
        field = _indirect(data, fields + 4 * number)
        children, child_count = _vector(data, field, _FIELD_CHILDREN)
        inner = [_indirect(data, children + 4 * child) for child in range(min(child_count, 1))]
        if child_count > 1 or any(_vector(data, child, _FIELD_CHILDREN)[1] for child in inner):
            raise EpisodeRejected(f"file's schema has a nested column (number {number}); columns are flat")
        for part in (field, *inner):
            if _field(data, part, _FIELD_DICTIONARY) is not None or _vector(data, part, _FIELD_METADATA)[1]:
                raise EpisodeRejected(
                    f"file's schema has a dictionary or metadata on column {number}; use plain columns"
                )


def _check_batch(metadata: bytes, body: bytes, bounds: ArrowBounds) -> None:
    batch = _header(metadata, _RECORD_BATCH)
    length_field = _field(metadata, batch, _BATCH_LENGTH)
    rows = 0 if length_field is None else struct.unpack_from("<q", metadata, length_field)[0]
    if not 0 <= rows <= bounds.max_rows:
        raise EpisodeRejected(f"file has {rows} rows; at most {bounds.max_rows} are allowed: split the episode")
    size_bytes = declared_bytes(metadata, body)
    if size_bytes > bounds.max_bytes:
        raise EpisodeRejected(
            f"file would decompress to {size_bytes} bytes, more than {bounds.max_bytes}: record shorter episodes"
        )


def _check_end(data: bytes, schema: pa.Schema, batch: _Message, bounds: ArrowBounds) -> None:
    """The end marker and a footer follow the batch at once, and the footer says what the stream said."""
    start = batch.end + _PREFIX_BYTES
    stop = len(data) - len(_END) - 4
    marker = struct.unpack_from("<II", data, batch.end)
    (footer_bytes,) = struct.unpack_from("<i", data, stop)
    if marker != (_CONTINUATION, 0) or footer_bytes != stop - start:
        raise EpisodeRejected("file has more between its batch and its footer; an episode is one record batch")
    if footer_bytes > 2 * bounds.max_metadata_bytes:
        raise EpisodeRejected(f"file has a footer of {footer_bytes} bytes: shorten its schema and metadata")
    footer = data[start:stop]
    table = _indirect(footer, 0)
    schema_field = _field(footer, table, _FOOTER_SCHEMA)
    if schema_field is None:
        raise EpisodeRejected("file's footer has no schema; send the episode again")
    _check_schema_table(footer, _indirect(footer, schema_field), bounds)
    blocks, batches = _vector(footer, table, _FOOTER_BATCHES)
    if batches != 1 or _vector(footer, table, _FOOTER_DICTIONARIES)[1]:
        raise EpisodeRejected(f"file's footer lists {batches} record batches, or dictionaries; expected one batch")
    block = struct.unpack_from("<qi4xq", footer, blocks)
    expected = (batch.start, batch.body - batch.start, batch.end - batch.body)
    if block != expected or not pa.ipc.open_file(pa.py_buffer(data)).schema.equals(schema, check_metadata=True):
        raise EpisodeRejected("file's footer contradicts its messages; send the episode again")


def _indirect(data: bytes, position: int) -> int:
    (offset,) = struct.unpack_from("<I", data, position)
    return position + int(offset)


def _vector(data: bytes, table: int, index: int) -> tuple[int, int]:
    """Return where the items of a vector field begin, and how many it has; none if it is absent."""
    field = _field(data, table, index)
    if field is None:
        return 0, 0
    start = _indirect(data, field)
    (count,) = struct.unpack_from("<I", data, start)
    return start + 4, int(count)


def _field(data: bytes, table: int, index: int) -> int | None:
    """Return where field `index` of a flatbuffer table lies, or None if it has its default."""
    (to_vtable,) = struct.unpack_from("<i", data, table)
    vtable = table - to_vtable
    (vtable_bytes,) = struct.unpack_from("<H", data, vtable)
    entry = 4 + 2 * index
    if entry >= vtable_bytes:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + entry)
    return table + int(offset) if offset else None
