"""Wrong numbers, shapes, types and lengths."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from lwd.data.episode_file import write_episode

from ..unit.data.episodes import episode
from .case import STEPS, Case, arrow_file, base, case, changed, floats, good, table_of, with_column

ROWS = STEPS + 1
BAD_FLOATS = {"nan": np.nan, "inf": np.inf, "minus-inf": -np.inf}


def numbers() -> Iterator[Case]:
    for field, column, last in (("states_TS", "states", STEPS), ("actions_TA", "actions", STEPS - 1)):
        for label, value in BAD_FLOATS.items():
            for step in (0, 7, last):
                name = f"{column}-{label}-at-{step}"
                yield case(name, f"{column} is not finite at step {step}", changed(name, field, step, value))
    for label, value in {"1e7": 1e7, "largest-float": 3.4e38, "minus-1e30": -1e30}.items():
        name = f"states-{label}"
        yield case(name, "states reaches", changed(name, "states_TS", 3, value))
        name = f"actions-{label}"
        yield case(name, "actions reaches", changed(name, "actions_TA", 3, value))
    for value in (1.01, -1.01, 2.0, 1e5):
        name = f"action-limit-{value}"
        yield case(name, "at step 3, outside", changed(name, "actions_TA", 3, value))
    for value in (2, 3, 255):
        for step in (0, STEPS - 1):
            name = f"controller-{value}-at-{step}"
            yield case(name, f"controllers is {value} at step {step}", changed(name, "controllers_T", step, value))


def shapes() -> Iterator[Case]:
    for width in (1, 3, 5, 4096):
        name = f"state-width-{width}"
        yield case(name, f"states has {width} columns", with_column(name, "state", floats(ROWS, width)))
    for column in ("state", "action"):
        name = f"{column}-width-4097"
        yield case(name, f"column {column} has type", with_column(name, column, floats(ROWS, 4097)))
    for width in (1, 3):
        name = f"action-width-{width}"
        actions = pa.array([[0.5] * width] * STEPS + [None], pa.list_(pa.float32(), width))
        yield case(name, f"actions has {width} columns", with_column(name, "action", actions))
    name = "rows-1"
    yield case(name, "file has 1 rows", arrow_file(table_of(good(name)).slice(0, 1)))
    name = "rows-0"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table_of(good(name)).schema) as writer:
        writer.write_batch(table_of(good(name)).to_batches()[0].slice(0, 0))
    yield case(name, "file has 0 rows", bytes(sink.getvalue()))
    for steps in (1001, 5000, 100_000):
        name = f"steps-{steps}"
        yield case(name, "at most 1001 are allowed", write_episode(episode(steps=steps, episode_id=name)))


def gaps() -> Iterator[Case]:
    """Nulls where a value belongs, and values where a null belongs."""
    table = table_of(good("gaps"))
    for column, kind in (("state", pa.list_(pa.float32(), 4)), ("action", pa.list_(pa.float32(), 2))):
        values = table.column(column).to_pylist()
        for step in (0, 9):
            name = f"{column}-null-at-{step}"
            holed = pa.array([None if row == step else value for row, value in enumerate(values)], kind)
            yield case(name, f"column {column} must have", with_column(name, column, holed))
        name = f"{column}-holds-a-null-number"
        values[4] = [None, *values[4][1:]]
        yield case(name, f"column {column} has missing numbers", with_column(name, column, pa.array(values, kind)))
    name = "action-in-the-last-row"
    yield case(name, "column action must have", with_column(name, "action", floats(ROWS, 2)))
    for label, values in {
        "null-in-the-middle": [0] * 9 + [None] + [0] * 10 + [None],
        "value-in-the-last-row": [0] * ROWS,
        "all-null": [None] * ROWS,
    }.items():
        name = f"controller-{label}"
        yield case(name, "controller must be null", with_column(name, "controller", pa.array(values, pa.uint8())))
    frames = table.column("image.wrist").to_pylist()
    for label, holed in {"one": [*frames[:5], None, *frames[6:]], "all": [None] * ROWS}.items():
        name = f"frames-null-{label}"
        yield case(name, "column image.wrist has", with_column(name, "image.wrist", pa.array(holed, pa.binary())))


def types() -> Iterator[Case]:
    numbers = [[0.0] * 4] * ROWS
    wrong = {
        "double": pa.array(numbers, pa.list_(pa.float64(), 4)),
        "half": pa.array(np.zeros((ROWS, 4), np.float16).tolist(), pa.list_(pa.float16(), 4)),
        "int": pa.array([[0] * 4] * ROWS, pa.list_(pa.int32(), 4)),
        "list": pa.array(numbers, pa.list_(pa.float32())),
        "large-list": pa.array(numbers, pa.large_list(pa.float32())),
        "list-view": pa.array(numbers, pa.list_view(pa.float32())),
        "text": pa.array(["0"] * ROWS),
        "plain-float": pa.array([0.0] * ROWS, pa.float32()),
        "null": pa.nulls(ROWS),
        "time": pa.array([0] * ROWS, pa.timestamp("ns")),
        "decimal": pa.array([0] * ROWS, pa.decimal128(38)),
        "runs": pa.RunEndEncodedArray.from_arrays([ROWS], pa.array([0.0], pa.float32())),
    }
    nested = {
        "list-of-lists": pa.array([[[0.0]] * 4] * ROWS, pa.list_(pa.list_(pa.float32()), 4)),
        "struct": pa.array([{"x": 0.0, "y": 0.0}] * ROWS),
        "map": pa.array([[("x", 0.0)]] * ROWS, pa.map_(pa.string(), pa.float32())),
        "union": pa.UnionArray.from_sparse(
            pa.array([0] * ROWS, pa.int8()), [pa.array([0.0] * ROWS), pa.array([0] * ROWS)]
        ),
        "dictionary": pa.array(["a"] * ROWS).dictionary_encode(),
        "tensor": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [4]), floats(ROWS, 4)),
    }
    for column in ("state", "action"):
        for label, array in wrong.items():
            name = f"{column}-is-{label}"
            reason = "nested" if label == "runs" else f"column {column} has type"
            yield case(name, reason, with_column(name, column, array))
        for label, array in nested.items():
            name = f"{column}-is-{label}"
            reason = {"dictionary": "dictionary", "tensor": "metadata on column"}.get(label, "nested column")
            if label == "dictionary":
                reason = "messages"
            yield case(name, reason, with_column(name, column, array))
    for kind in (pa.int8(), pa.int64(), pa.uint16(), pa.float32(), pa.string(), pa.bool_()):
        name = f"controller-is-{kind}"
        array = pa.array([0] * STEPS + [None], pa.uint8()).cast(kind)
        yield case(name, "column controller has type", with_column(name, "controller", array))
    frames = base("types").images["wrist"]
    for kind in (pa.large_binary(), pa.binary_view(), pa.binary(85)):
        name = f"frames-are-{str(kind).replace('[', '-').replace(']', '')}"
        array = pa.array([frame[:85] for frame in frames], kind)
        yield case(name, "column image.wrist has type", with_column(name, "image.wrist", array))
    name = "frames-are-text"
    yield case(name, "column image.wrist has type", with_column(name, "image.wrist", pa.array(["x"] * ROWS)))
    name = "frames-are-lists"
    lists = pa.array([list(frame) for frame in frames], pa.list_(pa.uint8()))
    yield case(name, "column image.wrist has type", with_column(name, "image.wrist", lists))


def columns() -> Iterator[Case]:
    plain = pa.array([1] * ROWS)
    for column in ("state", "action", "controller"):
        name = f"without-{column}"
        yield case(name, "columns are", arrow_file(table_of(good(name)).drop_columns([column])))
        name = f"twice-{column}"
        table = table_of(good(name))
        yield case(name, "columns are", arrow_file(table.append_column(column, table.column(column))))
    for extra in ("extra", "reward", "State", "image", "x" * 10_000, "état", ""):
        name = f"extra-column-{extra[:8] if extra.isascii() else 'unicode'}"
        yield case(name, "columns are", arrow_file(table_of(good(name)).append_column(extra, plain)))
    frames = table_of(good("columns")).column("image.wrist")
    for label, camera in {
        "nothing": "",
        "a-path": "../../etc/passwd",
        "a-newline": "a\nb",
        "an-escape": "\x1b[2J",
        "too-long": "c" * 129,
    }.items():
        name = f"camera-named-{label}"
        yield case(name, "is no camera", arrow_file(table_of(good(name)).append_column(f"image.{camera}", frames)))
    name = "camera-missing"
    yield case(name, "cameras are []", arrow_file(table_of(good(name)).drop_columns(["image.wrist"])))
    name = "camera-unknown"
    yield case(name, "cameras are ['head'", arrow_file(table_of(good(name)).append_column("image.head", frames)))
    name = "camera-twice"
    yield case(name, "columns are", arrow_file(table_of(good(name)).append_column("image.wrist", frames)))
    for count in (65, 10_000):
        name = f"columns-{count}"
        table = pa.table([pa.array([0], pa.uint8())] * count, names=[f"c{number}" for number in range(count)])
        reason = "message header of" if count > 1000 else f"has {count} columns"
        yield case(name, reason, arrow_file(table))
    name = "column-with-metadata"
    table = table_of(good(name))
    field = table.schema.field("state").with_metadata({b"ARROW:extension:name": b"evil"})
    yield case(name, "metadata on column", arrow_file(table.cast(table.schema.set(0, field))))


def replaced_arrays() -> Iterator[Case]:
    """Right files with wrong contents between the columns."""
    for label, rows in {"two-batches": 11, "a-batch-per-row": 1}.items():
        yield case(label, "between its batch and its footer", arrow_file(table_of(good(label)), batch_rows=rows))
    name = "doubled-episode"
    table = table_of(good(name))
    yield case(name, "controller must be null", arrow_file(pa.concat_tables([table, table])))
    name = "no-batch"
    sink = pa.BufferOutputStream()
    pa.ipc.new_file(sink, table_of(good(name)).schema).close()
    yield case(name, "no message at byte", bytes(sink.getvalue()))
    name = "other-embodiment"
    yield case(name, "embodiment is 'other'", write_episode(replace(base(name, embodiment="other"))))
