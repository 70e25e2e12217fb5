"""Damaged LeRobot datasets: what is done to a whole one of four episodes (12, 9, 7, 8 frames, one video).

With each the episodes that must be refused; None: whether it can be opened at all is LeRobot's affair, and what counts
is that the dry run and the import say the same.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Damage = Callable[[Path], object]


def _file(root: Path, pattern: str) -> Path:
    (found,) = root.glob(pattern)
    return found


def _rows(change: Callable[[pa.Table], pa.Table]) -> Damage:
    def damage(root: Path) -> None:
        path = _file(root, "data/**/*.parquet")
        pq.write_table(change(pq.read_table(path)), path)

    return damage


def _index(column: str, change: Callable[[list[Any]], list[Any]]) -> Damage:
    def damage(root: Path) -> None:
        path = _file(root, "meta/episodes/**/*.parquet")
        table = pq.read_table(path)
        place = table.schema.get_field_index(column)
        values = pa.array(change(table[column].to_pylist()), table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), values), path)

    return damage


def _number(column: str, row: int, place: int, value: float) -> Damage:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row][place] = value
        number = table.schema.get_field_index(column)
        return table.set_column(number, table.schema.field(number), pa.array(values, table.schema.field(number).type))

    return _rows(change)


def _as_type(column: str, kind: pa.DataType, value: Any) -> Damage:
    def change(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index(column)
        return table.set_column(number, column, pa.array([value] * table.num_rows, kind))

    return _rows(change)


def _twice(table: pa.Table) -> pa.Table:
    """The rows of the last one (8 frames) begin as those of the third (7): the same numbers, a frame more."""
    third, tail = table.slice(21, 7), table.slice(35, 1)
    names = [name for name in table.schema.names if name not in ("index", "episode_index", "frame_index", "timestamp")]
    copied = pa.concat_tables([third, tail])
    for name in table.schema.names:
        if name not in names:
            place = table.schema.get_field_index(name)
            copied = copied.set_column(place, table.schema.field(place), table.slice(28, 8)[name])
    return pa.concat_tables([table.slice(0, 28), copied])


def _task(text: str) -> Damage:
    def damage(root: Path) -> None:
        path = root / "meta" / "tasks.parquet"
        table = pq.read_table(path)
        name = next(
            n
            for n in table.schema.names
            if pa.types.is_string(table.schema.field(n).type) or pa.types.is_large_string(table.schema.field(n).type)
        )
        values = table[name].to_pylist()
        old, values[0] = values[0], text
        place = table.schema.get_field_index(name)
        column = pa.array(values, table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), column), path)
        _index("tasks", lambda rows: [[text if task == old else task for task in row] for row in rows])(root)

    return damage


def _empty(root: Path) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 0, "total_frames": 0}))


def _cut(pattern: str, share: float) -> Damage:
    def damage(root: Path) -> None:
        path = _file(root, pattern)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return damage


DAMAGES: dict[str, tuple[Damage, set[int] | None]] = {
    "nothing": (lambda root: None, set()),
    "nan in an action": (_number("action", 14, 1, np.nan), {1}),
    "infinite state": (_number("observation.state", 22, 0, np.inf), {2}),
    "state beyond any unit": (_number("observation.state", 2, 0, 5e6), {0}),
    "action beyond the limits": (_number("action", 13, 0, 5000.0), {1}),
    "task of 5000 letters": (_task("pick " * 1000), {0, 2}),
    "task with a control character": (_task("pick\x1b[2J up"), {0, 2}),
    "task of blanks": (_task("   "), {0, 2}),
    "task that turns the direction of writing": (_task("pick \u202e up"), {0, 2}),
    "no video": (lambda root: _file(root, "videos/**/*.mp4").unlink(), None),
    "half a video": (_cut("videos/**/*.mp4", 0.5), {0, 1, 2, 3}),
    "empty video": (_cut("videos/**/*.mp4", 0.0), {0, 1, 2, 3}),
    "video of three": (_index("videos/observation.images.front/from_timestamp", lambda v: [*v[:3], 99.0]), {3}),
    "half the rows' file": (_cut("data/**/*.parquet", 0.5), None),
    "half the episodes' file": (_cut("meta/episodes/**/*.parquet", 0.5), None),
    "rows missing at the end": (_rows(lambda table: table.slice(0, 30)), None),
    "shifted ranges": (_index("dataset_from_index", lambda v: [*v[:2], *(n + 4 for n in v[2:])]), None),
    "ranges of nothing": (_index("dataset_to_index", lambda v: [0] * len(v)), None),
    "lengths that are wrong": (_index("length", lambda v: [n + 3 for n in v]), None),
    "actions are words": (_as_type("action", pa.string(), "up"), None),
    "actions of two numbers": (_as_type("action", pa.list_(pa.float32()), [0.0, 0.0]), None),
    "actions are one number": (_as_type("action", pa.float32(), 0.5), None),
    "states are null": (_as_type("observation.state", pa.list_(pa.float32()), None), None),
    "no actions": (_rows(lambda table: table.drop_columns(["action"])), None),
    "an episode twice": (_rows(_twice), None),
    "no episodes": (_empty, None),
    "no info": (lambda root: (root / "meta" / "info.json").unlink(), None),
    "info is no JSON": (lambda root: (root / "meta" / "info.json").write_text("{"), None),
}
