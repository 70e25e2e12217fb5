"""A5: label files as spreadsheets write them are read, or refused with the reason."""

from pathlib import Path

import pytest

from lwd.data.lerobot.labels import read_labels, require_episodes
from lwd.errors import ConfigError
from lwd.types import Outcome


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_they_are_read(tmp_path: Path, mark: str, encoding: str):
    path = tmp_path / "labels.csv"
    path.write_bytes(f"Episode{mark}Success\r\n0{mark}TRUE\r\n{mark}\r\n\r\n3{mark}False\r\n".encode(encoding))
    assert read_labels(path) == {0: Outcome.SUCCESS, 3: Outcome.FAILURE}


def test_latin_1_is_read_where_only_names_need_it(tmp_path: Path):
    path = tmp_path / "labels.csv"
    path.write_bytes("episode,success,person\n0,true,J\u00fcrgen\n".encode("latin-1"))
    assert read_labels(path) == {0: Outcome.SUCCESS}


@pytest.mark.parametrize(
    ("data", "explanation"),
    [
        ("episode,success\n0,true\n".encode("utf-16-le"), "save it as UTF-8"),
        (b"", "columns"),
        (b"episode,success\n", "no label"),
        (b"episode,success\n0\n", "line 2: it has 1 columns"),
        (b"episode,success\n\n0,true,\n", "line 3: it has 3 columns"),
        (b"episode,success\n0.0,true\n", "no number of an episode"),
        (b"episode,success\n-1,true\n", "no number of an episode"),
        (b"episode,success,outcome\n0,true,failure\n", "each once"),
        (b'episode,success\n0,"true\n', "line"),
    ],
)
def test_others_are_refused_with_the_reason(tmp_path: Path, data: bytes, explanation: str):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=explanation):
        read_labels(path)


def test_a_label_of_no_episode_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"5, 7 are no episodes of the dataset \(it has 3, 0 to 4\)"):
        require_episodes(
            tmp_path / "labels.csv", {0: Outcome.SUCCESS, 7: Outcome.FAILURE, 5: Outcome.FAILURE}, {0, 1, 4}
        )
