"""Episode files: what is written comes back, what is damaged or hostile is refused."""

import contextlib
import json
import struct
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwd.data import episode_file
from lwd.data.arrow_bounds import declared_bytes
from lwd.data.episode_file import read_episode, write_episode
from lwd.errors import EpisodeRejected, ShapeError
from lwd.types import Outcome, Source

from .episodes import episode


def assert_equal(one, other):
    assert one.info == other.info
    np.testing.assert_array_equal(one.states_TS, other.states_TS)
    np.testing.assert_array_equal(one.actions_TA, other.actions_TA)
    np.testing.assert_array_equal(one.controllers_T, other.controllers_T)
    assert one.images == other.images


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(0, 1000),
    steps=st.integers(1, 60),
    cameras=st.booleans(),
    source=st.sampled_from(Source),
    outcome=st.sampled_from(Outcome),
    instruction=st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable() and text.strip() != ""),
)
def test_an_episode_comes_back_exactly(number, steps, cameras, source, outcome, instruction):
    written = episode(number, steps=steps, cameras=cameras, source=source, outcome=outcome, instruction=instruction)
    data = write_episode(written)
    assert_equal(read_episode(data), written)
    assert write_episode(written) == data


def test_any_arrow_tool_can_read_it():
    table = pa.ipc.open_file(pa.py_buffer(write_episode(episode(steps=7)))).read_all()
    assert table.num_rows == 8
    assert table.column("action")[7].as_py() is None
    assert json.loads(table.schema.metadata[b"lwd.episode"])["task"] == "reach"


def test_lengths_that_disagree_are_not_written():
    broken = replace(episode(steps=5), controllers_T=np.zeros(4, np.uint8))
    with pytest.raises(ShapeError, match="controllers"):
        write_episode(broken)


def test_every_cut_is_noticed():
    data = write_episode(episode(steps=30))
    assert read_episode(data).steps == 30
    for length in [0, 1, 7, 8, 9, *range(16, len(data), 97), len(data) - 1]:
        with pytest.raises(EpisodeRejected):
            read_episode(data[:length])
    with pytest.raises(EpisodeRejected):
        read_episode(data + b"trailing")


@settings(max_examples=300, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_never_crashes_the_reader(position, mask):
    data = bytearray(write_episode(episode(steps=10)))
    data[int(position * len(data))] ^= mask
    with contextlib.suppress(EpisodeRejected):
        assert read_episode(bytes(data)).steps == 10


def bomb(declared: int) -> bytes:
    """An episode file whose state buffer claims to decompress to `declared` bytes."""
    data = bytearray(write_episode(replace(episode(steps=200), states_TS=np.zeros((201, 4), np.float32))))
    size = 201 * 4 * 4
    place = bytes(data).index(struct.pack("<q", size) + b"\x28\xb5\x2f\xfd")
    data[place : place + 8] = struct.pack("<q", declared)
    return bytes(data)


def test_a_decompression_bomb_is_refused_before_memory_is_taken():
    with pytest.raises(EpisodeRejected, match="would decompress to"):
        read_episode(bomb(2**45))
    with pytest.raises(EpisodeRejected, match="declares"):
        read_episode(bomb(-(2**40)))


def test_declared_sizes_are_the_real_ones():
    data = write_episode(episode(steps=50, cameras=True))
    schema, batch = pa.ipc.MessageReader.open_stream(pa.py_buffer(data)[8:])
    real = pa.ipc.read_record_batch(batch, pa.ipc.read_schema(schema)).get_total_buffer_size()
    declared = declared_bytes(bytes(batch.metadata), bytes(batch.body))
    assert declared <= real <= declared + 64 * 32  # Arrow pads each buffer


def test_a_large_file_is_not_even_opened(monkeypatch):
    data = write_episode(episode())
    monkeypatch.setattr(episode_file, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(EpisodeRejected, match="record shorter episodes"):
        read_episode(data)


def rewritten(change) -> bytes:
    """A well-formed Arrow file whose table was changed."""
    table = pa.ipc.open_file(pa.py_buffer(write_episode(episode(steps=4)))).read_all()
    table = change(table).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def with_info(**changes):
    def change(table):
        info = json.loads(table.schema.metadata[b"lwd.episode"]) | changes
        return table.replace_schema_metadata({**table.schema.metadata, b"lwd.episode": json.dumps(info).encode()})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["state"]), "columns are"),
        (lambda table: table.append_column("extra", pa.array([1] * 5)), "columns are"),
        (lambda table: table.slice(0, 1), "at least one step"),
        (lambda table: table.slice(0, 4), "null in the last row"),
        (lambda table: pa.concat_tables([table, table]), "null in the last row"),
        (lambda table: table.replace_schema_metadata({}), "lwd.format is 'missing'"),
        (with_info(robot_id="../../etc"), "robot_id is '../../etc'"),
        (with_info(outcome="won"), "outcome is 'won'"),
        (with_info(control_hz=0), "control_hz is"),
        (with_info(surprise=1), "surprise is"),
        (with_info(policy_version="3"), "policy_version is '3'"),
        (
            lambda table: table.set_column(0, "state", pa.array([[1.0]] * 5, pa.list_(pa.float64()))),
            "column state has type",
        ),
    ],
)
def test_a_wellformed_file_that_is_no_episode_is_refused_by_name(change, message):
    with pytest.raises(EpisodeRejected, match=message):
        read_episode(rewritten(change))
