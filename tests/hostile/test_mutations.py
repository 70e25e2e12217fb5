"""Random damage to a valid file: it is rejected with a reason, or leaves an episode that is valid."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from lwd.data.frames import decode_frames
from lwd.data.validation import validate_episode
from lwd.errors import EpisodeRejected

from ..unit.data.episodes import WITH_CAMERA
from .case import LIMITS, arrow_file, base, good, table_of, with_frames
from .pictures import jpeg


@cache
def sources() -> tuple[bytes, ...]:
    """A compressed file, a plain one, and one with JPEG frames."""
    frames = {step: jpeg(progressive=step % 2 == 0) for step in range(21)}
    return good("mutated"), arrow_file(table_of(good("mutated"))), with_frames("mutated", frames)


PLACES = st.floats(0, 1, exclude_max=True)
EDITS = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("write"), PLACES, st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("number"), PLACES, st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("cut"), PLACES, st.integers(1, 64)),
    st.tuples(st.just("copy"), PLACES, PLACES),
)


def edited(data: bytes, edit: tuple) -> bytes:
    kind, place, value = edit
    at = int(place * len(data))
    if kind == "flip":
        return data[:at] + bytes((data[at] ^ value,)) + data[at + 1 :]
    if kind == "cut":
        return data[:at] + data[at + value :]
    if kind == "copy":
        start = int(value * len(data))
        new = data[start : start + 32]
    else:
        new = value.to_bytes(8, "little", signed=True) if kind == "number" else value
        at -= at % 8 if kind == "number" else 0
    return data[:at] + new + data[at + len(new) :]


@settings(max_examples=600, deadline=None)
@given(source=st.integers(0, 2), edits=st.lists(EDITS, min_size=1, max_size=4))
def test_a_mutated_file_is_rejected_or_is_an_episode(source, edits):
    data = sources()[source]
    for edit in edits:
        data = edited(data, edit)
    reason = ""
    try:
        episode = validate_episode(data, LIMITS)
    except EpisodeRejected as error:
        reason = str(error)
    # Validation turns an exception it did not expect into a rejection, too; here none may be left.
    assert "report a bug" not in reason
    if reason:
        return
    assert validate_episode(episode, LIMITS) is episode
    # What is committed can be decoded by every learner.
    assert decode_frames(episode, "wrist", WITH_CAMERA.cameras["wrist"]).shape == (21, 6, 8, 3)


def test_the_sources_are_valid():
    for data in sources():
        assert validate_episode(data, LIMITS).info == base("mutated").info
