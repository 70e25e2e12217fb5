"""Gaps through LeRobot's files: a pause in the timestamps is noted and imported, and an export keeps it (A8)."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.lerobot.datasets import FPS, make_dataset

from lwd.cli.main import dispatch
from lwd.data.episode_file import read_episode
from lwd.data.revocation import newest_log
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Controller

PAUSE = 4


def episodes_of(run) -> list:
    store = RunDirectory(run).store()
    found = newest_log(store).snapshot.episodes.values()
    episodes = [read_episode(store.get(item.entry.key)) for item in found]
    return sorted(episodes, key=lambda one: -one.steps)  # in the dataset's order


def pause(root) -> None:
    """The recorder stood still for three seconds after frame PAUSE of the first episode."""
    (path,) = root.glob("data/**/*.parquet")
    table = pq.read_table(path)
    times = table["timestamp"].to_numpy().copy()
    times[(table["episode_index"].to_numpy() == 0) & (table["frame_index"].to_numpy() > PAUSE)] += 3
    place = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(times, pa.float32())), path)


def test_a_pause_is_noted_imported_exported_and_imported_again(tmp_path, capsys) -> None:
    make_dataset(tmp_path / "cups", cameras=())
    pause(tmp_path / "cups")
    words = ["data", "import", "--lerobot", str(tmp_path / "cups"), "--all-success"]
    dispatch([*words, "--run", str(tmp_path / "dry"), "--dry-run", "--json"])
    rows = json.loads(capsys.readouterr().out)
    rows = rows["episodes"] if isinstance(rows, dict) else rows
    assert [note for note in rows[0]["notes"] if f"gaps: 1 in time, the first after frame {PAUSE}" in note]
    assert not [note for note in rows[1]["notes"] if "gaps" in note]
    dispatch([*words, "--run", str(tmp_path / "run")])
    first, *others = episodes_of(tmp_path / "run")
    assert np.flatnonzero(first.controllers_T == Controller.NOBODY).tolist() == [PAUSE]
    assert not any((one.controllers_T == Controller.NOBODY).any() for one in others)
    assert first.info.control_hz == FPS
    dispatch(["data", "export", "--run", str(tmp_path / "run"), "--lerobot", str(tmp_path / "out")])
    dispatch(["data", "import", "--lerobot", str(tmp_path / "out"), "--run", str(tmp_path / "again")])
    again = episodes_of(tmp_path / "again")
    for one, other in zip([first, *others], again, strict=True):
        np.testing.assert_array_equal(one.controllers_T, other.controllers_T)
        np.testing.assert_array_equal(one.states_TS, other.states_TS)
