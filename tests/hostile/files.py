"""Arrow files that are cut, patched, or ask for more than they hold."""

import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lwd.data.arrow_bounds import _header, _vector

from .case import STEPS, Case, arrow_file, base, case, floats, good, table_of

ROWS = STEPS + 1
MIB = 2**20
START = 8
"""Where the first message begins."""


def parts(data: bytes) -> tuple[int, int, int]:
    """Return where the record batch's message, its body and the end marker begin."""
    (schema_bytes,) = struct.unpack_from("<I", data, START + 4)
    batch = START + 8 + schema_bytes
    (batch_bytes,) = struct.unpack_from("<I", data, batch + 4)
    body = batch + 8 + batch_bytes
    end = len(data) - 10 - struct.unpack_from("<i", data, len(data) - 10)[0] - 8
    return batch, body, end


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def buffer_place(data: bytes, number: int) -> int:
    """Return where the batch's header says where buffer `number` lies."""
    batch, body, _ = parts(data)
    metadata = data[batch + 8 : body]
    vector, count = _vector(metadata, _header(metadata, 3), 2)
    assert number < count
    return batch + 8 + vector + 16 * number


def with_buffer(data: bytes, number: int, offset: int | None = None, length: int | None = None) -> bytes:
    place = buffer_place(data, number)
    old_offset, old_length = struct.unpack_from("<qq", data, place)
    new = (old_offset if offset is None else offset, old_length if length is None else length)
    return patched(data, place, struct.pack("<qq", *new))


def truncations() -> Iterator[Case]:
    size = len(good("cut"))
    for length in (1, 7, 8, 12, 100, *range(400, size, size // 16), size - 7, size - 1):
        name = f"cut-at-{length}"
        yield case(name, "magic number is missing", good(name)[:length])
    for length in (200, 900, 2000, size - 300, size - 50):
        # A writer that fakes the end.
        name = f"cut-at-{length}-with-an-end"
        yield case(name, "file", good(name)[:length] + b"ARROW1")
    for label, wrap in {
        "leading-bytes": lambda data: b"xx" + data,
        "trailing-bytes": lambda data: data + b"xx",
        "no-magic": lambda data: bytes(8) + data[8:],
        "only-magic": lambda _: b"ARROW1\0\0ARROW1",
        "nothing": lambda _: b"",
        "zeros": lambda data: bytes(len(data)),
        "text": lambda _: b"not found\n",
        "parquet": lambda data: b"PAR1" + data[4:-4] + b"PAR1",
        "feather-1": lambda data: b"FEA1" + data[4:],
    }.items():
        yield case(f"file-{label}", "file", wrap(good(f"file-{label}")))
    name = "two-files-in-one"
    yield case(name, "between its batch and its footer", good(name) + good(name))
    name = "slack-before-the-footer"
    data = good(name)
    end = parts(data)[2]
    yield case(name, "between its batch and its footer", data[:end] + bytes(4096) + data[end:])


def flips() -> Iterator[Case]:
    """Changed bits where a change must be noticed."""
    places = {
        "magic": (lambda data: 0, "magic number"),
        "end": (lambda data: len(data) - 1, "magic number"),
        "schema-marker": (lambda data: START, "no message at byte"),
        "schema-length": (lambda data: START + 4, "file"),
        "schema-length-high": (lambda data: START + 7, "message header of"),
        "schema-root": (lambda data: START + 8, "file"),
        "batch-marker": (lambda data: parts(data)[0], "no message at byte"),
        "batch-length": (lambda data: parts(data)[0] + 4, "file"),
        "batch-root": (lambda data: parts(data)[0] + 8, "file"),
        "end-marker": (lambda data: parts(data)[2], "between its batch and its footer"),
        "footer-root": (lambda data: parts(data)[2] + 8, "file"),
        "footer-length": (lambda data: len(data) - 10, "between its batch and its footer"),
    }
    for label, (find, reason) in places.items():
        for mask in (0x08, 0x80):
            name = f"flip-{label}-{mask:#x}"
            source = good(name)
            at = find(source)
            yield case(name, reason, patched(source, at, bytes((source[at] ^ mask,))))
    name = "flip-in-compressed-data"
    source = good(name)
    place = source.index(b"\x28\xb5\x2f\xfd", parts(source)[1])
    yield case(name, "damaged", patched(source, place, b"\0\0\0\0"))
    name = "footer-with-another-description"
    source = good(name)
    place = source.rindex(b'"outcome":"success"')
    yield case(name, "footer contradicts", patched(source, place, b'"outcome":"failure"'))


def buffers() -> Iterator[Case]:
    for label, number, change, reason in (
        ("offset-beyond-the-file", 0, {"offset": 2**40}, "leaves the body"),
        ("offset-negative", 0, {"offset": -64}, "leaves the body"),
        ("length-beyond-the-file", 0, {"length": 2**40}, "leaves the body"),
        ("length-negative", 0, {"length": -1}, "leaves the body"),
        ("lengths-that-overflow", 0, {"offset": 2**62, "length": 2**62}, "leaves the body"),
        ("buffers-overlap", 3, {"offset": 0}, "overlaps"),
        ("length-zero", 0, {"length": 0}, "damaged"),
        ("length-short", 0, {"length": 8}, "damaged"),
    ):
        name = f"buffer-{label}"
        plain = arrow_file(table_of(good(name)))
        # A column without nulls has an empty first buffer.
        used = [index for index in range(8) if struct.unpack_from("<q", plain, buffer_place(plain, index) + 8)[0]]
        yield case(name, reason, with_buffer(plain, used[number], **change))
    lengths = [len(frame) for frame in base("offsets").images["wrist"]]
    ends = np.cumsum([0, *lengths]).astype("<i4")
    for label, index, value in (
        ("beyond-the-data", ROWS, 2**30),
        ("negative", 3, -5),
        ("backwards", 10, 0),
        ("first-negative", 0, -1),
    ):
        name = f"frame-offset-{label}"
        plain = arrow_file(table_of(good(name)))
        place = plain.index(ends.tobytes())
        yield case(name, "damaged", patched(plain, place + 4 * index, struct.pack("<i", value)))
    name = "rows-more-than-data"
    plain = arrow_file(table_of(good(name)))
    batch, body, _ = parts(plain)
    place = plain.index(struct.pack("<q", ROWS), batch, body)
    for label, rows in {"a-few": 900, "billions": 2**40, "negative": -1}.items():
        reason = "damaged" if rows == 900 else f"file has {rows} rows"
        yield case(f"{name}-{label}", reason, patched(plain, place, struct.pack("<q", rows)))


def bombs() -> Iterator[Case]:
    for codec in ("zstd", "lz4"):
        for label, declared, reason in (
            ("32-tib", 2**45, "would decompress to"),
            ("largest", 2**62, "would decompress to"),
            ("300-mib", 300 * MIB, "would decompress to"),
            ("200-mib", 200 * MIB, "damaged"),
            ("negative", -(2**40), "declares"),
            ("minus-two", -2, "declares"),
            ("one-byte", 1, "damaged"),
        ):
            name = f"bomb-{codec}-declares-{label}"
            table = table_of(good(name))
            table = table.set_column(0, "state", floats(ROWS, 4))
            data = arrow_file(table, compression=codec)
            place = data.index(struct.pack("<q", ROWS * 16), parts(data)[1])
            yield case(name, reason, patched(data, place, struct.pack("<q", declared)))
        # Real ones: they do become that large.
        for size, reason in ((257, "would decompress to"), (200, "neither PNG nor JPEG")):
            name = f"bomb-{codec}-frame-of-{size}-mib"
            frames = [bytes(size * MIB), *base(name).images["wrist"][1:]]
            table = table_of(good(name))
            place = table.schema.names.index("image.wrist")
            table = table.set_column(place, "image.wrist", pa.array(frames, pa.binary()))
            yield case(name, reason, arrow_file(table, compression=codec))
        name = f"bomb-{codec}-of-8-million-rows"
        table = pa.table({"state": floats(2**23, 4)})
        yield case(name, "columns are", arrow_file(table, compression=codec))
    name = "bomb-rows-without-bytes"
    data = arrow_file(pa.table({"state": pa.nulls(77)}))
    yield case(name, "columns are", data.replace(struct.pack("<q", 77), struct.pack("<q", 2**40)))
    name = "bomb-of-20000-messages"
    schema = pa.schema({"state": pa.null()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for _ in range(20_000):
            writer.write_batch(pa.record_batch([pa.nulls(0)], schema=schema))
    yield case(name, "columns are", bytes(sink.getvalue()))


def files() -> Iterator[Case]:
    for family in (truncations, flips, buffers, bombs):
        yield from family()
