"""A table of rows by key: what is found is whole and its key's, whatever happened before."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwd.data.row_table import KEY_BYTES, RowTable
from lwd.errors import ConfigError, StoreError
from lwd.types import ByteArray

ROW_BYTES = 1000
SLOT_BYTES = 1024 + 64
HEADER_BYTES = 4096


def key_of(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def row_of(name: object, size: int = ROW_BYTES) -> ByteArray:
    return np.random.default_rng(int.from_bytes(key_of(name)[:8], "little")).integers(0, 256, size, dtype=np.uint8)


Open = Callable[..., RowTable]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prefixes" / "0.rows"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def call(rows: int = 4, **changes: Any) -> RowTable:
            settings = {"row_bytes": ROW_BYTES, "budget_bytes": HEADER_BYTES + rows * SLOT_BYTES, "content": "weights"}
            return stack.enter_context(closing(RowTable(path, **{**settings, **changes})))

        yield call


def test_rows_of_any_size_up_to_the_largest_come_back(opened: Open) -> None:
    table = opened()
    for name, size in (("a", ROW_BYTES), ("b", 1), ("c", 0)):
        assert table.get(key_of(name)) is None
        table.put(key_of(name), row_of(name, size))
    for name, size in (("a", ROW_BYTES), ("b", 1), ("c", 0)):
        np.testing.assert_array_equal(table.get(key_of(name)), row_of(name, size))
    assert (table.hits, table.misses, len(table), table.kept_bytes) == (3, 3, 3, 3 * 1024)


def test_the_newest_row_pushes_out_the_oldest(opened: Open, path: Path) -> None:
    table = opened(rows=3)
    size = path.stat().st_size
    assert size <= HEADER_BYTES + 3 * SLOT_BYTES
    for name in range(5):
        table.put(key_of(name), row_of(name))
        if name == 2:
            table.put(key_of(0), row_of(0))  # it is there: it neither moves nor takes a second place
    assert [table.get(key_of(name)) is not None for name in range(5)] == [False, False, True, True, True]
    for name in (2, 3, 4):
        np.testing.assert_array_equal(table.get(key_of(name)), row_of(name))
    assert len(table) == 3
    assert path.stat().st_size == size


def test_the_whole_budget_is_reserved_at_once(opened: Open, path: Path) -> None:
    opened(rows=5000)
    assert path.stat().st_blocks * 512 >= 5000 * SLOT_BYTES


def test_a_restart_goes_on_where_the_table_was(opened: Open) -> None:
    with closing(opened(rows=3)) as table:
        for name in range(4):
            table.put(key_of(name), row_of(name))
    again = opened(rows=3)
    assert len(again) == 3
    again.put(key_of(4), row_of(4))  # in the place of 1, now the oldest
    assert [again.get(key_of(name)) is not None for name in range(5)] == [False, False, True, True, True]
    for name in (2, 3, 4):
        np.testing.assert_array_equal(again.get(key_of(name)), row_of(name))


@pytest.mark.parametrize("change", [{"content": "other weights"}, {"row_bytes": 900}, {"rows": 5}])
def test_a_table_of_something_else_begins_anew_and_says_so_once(
    change: dict[str, Any], opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened()) as table:
        table.put(key_of("a"), row_of("a", 800))
    assert not caplog.records
    with caplog.at_level(logging.WARNING), closing(opened(**change)) as table:
        assert len(table) == 0
        assert table.get(key_of("a")) is None
    assert [record.message.partition(" is ")[2] for record in caplog.records] == [
        "of another backbone, budget or version: it begins anew"
    ]


def test_a_row_that_was_damaged_on_the_disk_is_not_found(opened: Open, path: Path) -> None:
    with closing(opened()) as table:
        for name in ("a", "b"):
            table.put(key_of(name), row_of(name))
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 4 * 64 + 500] ^= 1  # in the first row
    path.write_bytes(content)
    table = opened()
    assert table.get(key_of("a")) is None
    np.testing.assert_array_equal(table.get(key_of("b")), row_of("b"))
    table.put(key_of("a"), row_of("a"))
    np.testing.assert_array_equal(table.get(key_of("a")), row_of("a"))


@pytest.mark.parametrize("field", range(0, 52, 4))
def test_an_entry_that_was_damaged_finds_no_row(field: int, opened: Open, path: Path) -> None:
    with closing(opened()) as table:
        table.put(key_of("a"), row_of("a"))
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + field] ^= 0xFF
    path.write_bytes(content)
    table = opened()
    damaged = bytes(content[HEADER_BYTES : HEADER_BYTES + KEY_BYTES])
    assert table.get(key_of("a")) is None
    assert table.get(damaged) is None


def test_a_cut_file_begins_anew(opened: Open, path: Path) -> None:
    with closing(opened()) as table:
        table.put(key_of("a"), row_of("a"))
    os.truncate(path, path.stat().st_size - 1)
    assert opened().get(key_of("a")) is None


def test_too_small_a_budget_is_refused_with_the_numbers(path: Path) -> None:
    enough = HEADER_BYTES + 3 * SLOT_BYTES
    with pytest.raises(ConfigError, match=rf"hold 2 rows of {ROW_BYTES} bytes, at least 3 .* give {enough} bytes"):
        RowTable(path, row_bytes=ROW_BYTES, budget_bytes=enough - 1, content="", at_least=3)
    assert not path.exists()
    RowTable(path, row_bytes=ROW_BYTES, budget_bytes=enough, content="", at_least=3).close()
    with pytest.raises(ConfigError, match="hold 0 rows"):
        RowTable(path, row_bytes=ROW_BYTES, budget_bytes=0, content="")


def test_a_budget_that_the_disk_does_not_have_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="no space left"):
        RowTable(path, row_bytes=10**9, budget_bytes=10**15, content="")
    assert path.stat().st_size == 0
    RowTable(path, row_bytes=ROW_BYTES, budget_bytes=10**5, content="").close()


def test_what_does_not_fit_is_refused(opened: Open) -> None:
    table = opened()
    with pytest.raises(ConfigError, match="a row of 1001 bytes"):
        table.put(key_of("a"), row_of("a", ROW_BYTES + 1))
    with pytest.raises(ConfigError, match="a key of 3"):
        table.put(b"abc", row_of("a"))
    assert len(table) == 0


def test_one_process_at_a_time(opened: Open) -> None:
    table = opened()
    with pytest.raises(ConfigError, match="another process has"):
        opened()
    table.close()
    opened()


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_row_table import LARGE_BYTES, large_table, key_of, row_of
table = large_table(Path(sys.argv[1]))
rows = {name: row_of(name, LARGE_BYTES) for name in range(6)}
print("ready", flush=True)
while True:
    for name, row in rows.items():
        table.put(key_of(name), row)
"""
LARGE_BYTES = 16_000_000


def large_table(path: Path) -> RowTable:
    # Fewer rows than there are names: every row is written over and over.
    return RowTable(path, row_bytes=LARGE_BYTES, budget_bytes=3 * (LARGE_BYTES + 4096), content="weights")


def test_a_process_that_is_killed_while_it_writes_leaves_no_torn_row(path: Path) -> None:
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", _WRITER, str(path), str(Path(__file__).parent)]
    found = cut = 0
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.1 + rng.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
        with closing(large_table(path)) as table:
            cut += len(table) < table.rows
            for name in range(6):
                row = table.get(key_of(name))
                if row is not None:
                    found += 1
                    np.testing.assert_array_equal(row, row_of(name, LARGE_BYTES))
    assert found
    assert cut, "no kill came in the middle of a write: make the rows larger"
