"""How large an Arrow IPC file becomes once it is decompressed, without decompressing it.

Arrow allocates what each buffer's header declares before it decompresses, so a small hostile file can ask
for any amount of memory. This module reads the declared sizes first. It understands just as much of the
flatbuffer encoding as that needs (Arrow columnar format, "Encapsulated message", "RecordBatch message").
"""

import struct

import pyarrow as pa

from lwd.errors import EpisodeRejected

_MAGIC = b"ARROW1\0\0"
_END = b"ARROW1"
_RECORD_BATCH = 3
"""MessageHeader.RecordBatch in Arrow's Message.fbs."""
_UNCOMPRESSED = -1
"""Declared length of a buffer that was left as it is."""


def read_bounded_batch(data: bytes, max_bytes: int) -> pa.RecordBatch:
    """Read an Arrow IPC file that holds exactly one record batch, and validate it fully.

    Args:
        data: the file.
        max_bytes: the most that all decompressed buffers may take together.
    Raises:
        EpisodeRejected: if it is no such file, is damaged, or would become larger.
    """
    if not (data.startswith(_MAGIC) and data.endswith(_END)):
        raise EpisodeRejected("file is no whole Arrow IPC file: a magic number is missing; send it again")
    try:
        # The file format is the stream format between a magic number and a footer.
        messages = list(pa.ipc.MessageReader.open_stream(pa.py_buffer(data)[len(_MAGIC) :]))
        kinds = [message.type for message in messages]
        if kinds != ["schema", "record batch"]:
            raise EpisodeRejected(f"file holds the messages {kinds}; an episode is one schema and one record batch")
        schema = pa.ipc.read_schema(messages[0])
        size_bytes = declared_bytes(bytes(messages[1].metadata), bytes(messages[1].body))
        if size_bytes > max_bytes:
            raise EpisodeRejected(
                f"file would decompress to {size_bytes} bytes, more than {max_bytes}: record shorter episodes"
            )
        batch = pa.ipc.read_record_batch(messages[1], schema)
        batch.validate(full=True)
        # Decodes the names, which may be no text.
        _ = batch.schema.names
    except (pa.ArrowException, OSError, struct.error, ValueError) as error:
        raise EpisodeRejected(f"file is damaged ({error}); send the episode again") from error
    return batch


def declared_bytes(metadata: bytes, body: bytes) -> int:
    """Return the sum of the decompressed sizes that a record batch message declares.

    Raises:
        EpisodeRejected: if a declared size is negative.
        struct.error: if the message is cut short.
    """
    message = _root_table(metadata)
    header_type = _field(metadata, message, 1)
    header_field = _field(metadata, message, 2)
    if header_type is None or header_field is None or metadata[header_type] != _RECORD_BATCH:
        raise EpisodeRejected("file's second message is no record batch; record the episode again")
    batch = _indirect(metadata, header_field)
    buffers_field = _field(metadata, batch, 2)
    if buffers_field is None:
        return 0
    compressed = _field(metadata, batch, 3) is not None
    vector = _indirect(metadata, buffers_field)
    (count,) = struct.unpack_from("<I", metadata, vector)
    total = 0
    for number in range(count):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * number)
        size = length
        if compressed and length > 0:
            (declared,) = struct.unpack_from("<q", body, offset)
            size = length - 8 if declared == _UNCOMPRESSED else declared
        if size < 0:
            raise EpisodeRejected(f"file's buffer {number} declares {size} bytes; send the episode again")
        total += size
    return total


def _root_table(data: bytes) -> int:
    return _indirect(data, 0)


def _indirect(data: bytes, position: int) -> int:
    (offset,) = struct.unpack_from("<I", data, position)
    return position + int(offset)


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
