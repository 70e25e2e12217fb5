"""The note of what a coordinator looks at: only a process's end counts, and what is damaged is begun again."""

import pytest

from lwd.fleet.suspects import Suspects


def test_a_death_is_counted_and_an_exception_is_none(tmp_path):
    path = tmp_path / "coordinator" / "inspecting.json"
    suspects = Suspects(path)
    with pytest.raises(ValueError, match="bad"), suspects.inspecting("a"):
        raise ValueError("bad")
    with suspects.inspecting("b"):
        noted = path.read_bytes()
    assert [Suspects(path).deaths(key) for key in "ab"] == [0, 0]
    # As a process leaves it that ended within the block.
    for deaths in (1, 2, 3):
        path.write_bytes(noted if deaths == 1 else noted.replace(b"{}", b'{"b":%d}' % (deaths - 1)))
        assert Suspects(path).deaths("b") == deaths
    survivor = Suspects(path)
    with survivor.inspecting("b"):
        pass
    assert survivor.deaths("b") == Suspects(path).deaths("b") == 0


def test_a_damaged_note_is_begun_again(tmp_path):
    path = tmp_path / "inspecting.json"
    path.write_bytes(b"{half")
    suspects = Suspects(path)
    assert suspects.deaths("a") == 0
    with suspects.inspecting("a"):
        assert b'"a"' in path.read_bytes()
