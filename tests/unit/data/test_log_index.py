"""An index is believed only if every bit of it is as written, and if it was made from this log."""

import numpy as np
import pytest

from lwd.data.log import LogReader, index_of, log_key
from lwd.data.log_index import IndexDamaged, index_key, read_index
from lwd.data.revocation import newest_log
from lwd.data.store import DirectoryStore

from .small_store import commit


def write_index(store) -> None:
    snapshot = newest_log(store).snapshot
    store.create(index_key(snapshot.version), index_of(snapshot))


def test_index_with_any_bit_flipped_is_passed_over(tmp_path):
    """B10: a page that decodes to another hash or number would be blamed on the episode."""
    store = DirectoryStore(tmp_path)
    for number in range(6):
        commit(store, f"e{number}")
    write_index(store)
    intact = (tmp_path / index_key(6)).read_bytes()
    log = LogReader(store)
    log.poll()
    expected = log.snapshot.episodes
    draw = np.random.default_rng(0)
    for position in {*draw.integers(0, len(intact), 300).tolist(), 0, len(intact) - 1}:
        damaged = bytearray(intact)
        damaged[position] ^= 1 << int(draw.integers(8))
        with pytest.raises(IndexDamaged):
            read_index(bytes(damaged))
        (tmp_path / index_key(6)).write_bytes(damaged)
        reader = LogReader(store)
        assert reader.load_index() == 0, position
    reader.poll()
    assert reader.snapshot.episodes == expected
    (tmp_path / index_key(6)).write_bytes(intact)
    assert LogReader(store).load_index() == 6


def test_index_of_another_log_is_passed_over(tmp_path):
    """A log that was restored from an older copy and went another way, with the index of the first one beside it."""
    store = DirectoryStore(tmp_path)
    for number in range(6):
        commit(store, f"e{number}")
    write_index(store)
    for version in (5, 6):
        (tmp_path / log_key(version)).unlink()
    for number in range(6, 9):
        commit(store, f"e{number}")
    reader = LogReader(store)
    assert reader.load_index() == 0
    reader.poll()
    assert [name for name in reader.snapshot.episodes if name.endswith(("e4", "e5"))] == []
