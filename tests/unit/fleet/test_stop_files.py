"""Stops as files: what counts, what survives, and that nobody's stop is lost or released by accident."""

import os
import time

import pytest

from lwd.errors import StoreError
from lwd.fleet.stop_files import StopFiles, StopFileThread
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_messages import MAX_STOPS, StopOrder, StopState, words_of


def order(number: int, by: str = "ada", at_s: float = 0.0) -> StopOrder:
    return StopOrder(stop_id=f"{number:032x}", by=by, at_s=at_s or float(number))


def test_stop_state_merges_in_any_order_and_as_often_as_one_likes():
    first = StopState(stops=(order(1), order(2)))
    second = StopState(stops=(order(2), order(3))).released([order(1).stop_id], "bob", "", 9.0)
    one, other = first.merged(second), second.merged(first).merged(first)
    assert one == other
    assert {stop.stop_id for stop in one.active} == {order(2).stop_id, order(3).stop_id}


def test_stop_state_stays_a_message_however_many_stops_are_merged():
    state = StopState()
    for number in range(1, 5 * MAX_STOPS):
        state = state.merged(StopState(stops=(order(number, f"op-{number}"),)))
        if number % 2:
            state = state.released([order(number).stop_id], "bob", "", float(number))
    assert StopState.model_validate_json(state.model_dump_json()) == state
    assert len(state.active) == MAX_STOPS
    # The oldest stops stay: whoever pressed first was not released.
    assert state.active[0].stop_id == order(2).stop_id


def test_stop_of_one_person_counts_again_later_and_not_without_end():
    state = StopState()
    for number in range(100):
        state = state.order(order(number, at_s=1000.0 + number))
        assert len(state.active) == min(8, 1 + number // 2)
    # Who releases the first has not seen the last.
    left = state.released([order(0).stop_id], "bob", "", 1100.0)
    assert words_of(left.active) == "stopped by ada"


def test_stop_is_noted_once_for_everybody_who_presses():
    latch = StopLatch()
    latch.stop("ada", "smoke")
    latch.stop("ada")
    latch.stop("bob")
    assert [stop.by for stop in latch.active] == ["ada", "bob"]
    assert latch.reason == "stopped by ada: smoke; by bob"


def test_stop_refuses_text_that_a_terminal_would_obey():
    with pytest.raises(ValueError, match="cannot be printed"):
        StopOrder(stop_id="0" * 32, by="ada", reason="\x1b[2J")


def test_stop_file_counts_while_it_is_empty_and_gets_its_author_later(tmp_path):
    files = StopFiles(tmp_path)
    files.directory.mkdir()
    (files.directory / order(7).stop_id).touch()
    assert words_of(files.read().active) == "stopped by somebody"
    files.directory.joinpath(order(7).stop_id).write_text(order(7).model_dump_json())
    assert words_of(files.read().active) == "stopped by ada"


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", order(8).model_dump_json().encode()])
def test_release_file_that_cannot_be_read_releases_nothing(tmp_path, content):
    files = StopFiles(tmp_path)
    files.write(StopState(stops=(order(7),)))
    (files.directory / f"{order(7).stop_id}.released").write_bytes(content)
    assert [stop.stop_id for stop in StopFiles(tmp_path).read().active] == [order(7).stop_id]


def test_button_file_stops_again_after_it_was_released(tmp_path):
    files = StopFiles(tmp_path)
    files.directory.mkdir()
    for _ in range(2):
        (files.directory / "button").touch()
        state = files.read()
        assert words_of(state.active) == "stopped by somebody: file button"
        files.write(state.released([stop.stop_id for stop in state.active], "ada", "looked", time.time()))
        assert not StopFiles(tmp_path).read().active
        assert not (files.directory / "button").exists()


def test_button_file_that_cannot_be_deleted_stops_again_when_it_is_touched(tmp_path):
    files = StopFiles(tmp_path)
    files.directory.mkdir()
    button = files.directory / "button"
    button.touch()
    os.utime(button, ns=(1, 1))
    first = files.read()
    button.write_bytes(b"")
    os.utime(button, ns=(2, 2))
    second = files.read()
    assert first.active != second.active


def test_odd_things_in_the_directory_stop_no_thread(tmp_path):
    files = StopFiles(tmp_path)
    files.directory.mkdir()
    os.mkfifo(files.directory / "fifo")
    (files.directory / "folder").mkdir()
    (files.directory / ".tmp-0").touch()
    (files.directory / "dangling").symlink_to(tmp_path / "nowhere")
    assert words_of(files.read().active) == "stopped by somebody: file fifo"


def test_latch_takes_up_after_a_restart_what_was_not_released(tmp_path):
    latch = StopLatch()
    thread = StopFileThread(StopFiles(tmp_path), latch)
    # As the bus brings it.
    latch.merge(StopState(stops=(order(1), order(2, "bob"))))
    latch.release((order(1).stop_id,), "ada")
    deadline_s = time.monotonic() + 20
    while not (found := StopFiles(tmp_path).read()).releases or words_of(found.active) != "stopped by bob":
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    thread.close()
    again = StopLatch()
    StopFileThread(StopFiles(tmp_path), again).close()
    assert again.reason == "stopped by bob"
    assert not again.merge(StopState(stops=(order(1),))) or again.reason == "stopped by bob"


def test_old_releases_are_tidied_away_and_no_stop_comes_back(tmp_path):
    files = StopFiles(tmp_path)
    for number in range(1, MAX_STOPS + 20):
        state = files.read().merged(StopState(stops=(order(number),)))
        files.write(state)
        files.write(files.read().released([order(number).stop_id], "ada", "", float(number)))
        assert not StopFiles(tmp_path).read().active
    assert len(list(files.directory.iterdir())) <= 2 * MAX_STOPS + 2


def test_stop_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "stop").touch()
    with pytest.raises(StoreError, match="stop"):
        StopFiles(tmp_path).write(StopState(stops=(order(1),)))
