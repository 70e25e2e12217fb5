"""A1, A5, A6: the rows of an episode are its own, its number is its own, and its first frame's task counts."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.lerobot.datasets import make_dataset

from lwd.cli.main import dispatch
from lwd.data.episode_file import read_episode
from lwd.data.lerobot.source import LeRobotSource
from lwd.data.revocation import newest_log
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Outcome

LENGTHS = (12, 9, 7, 8, 10)
ALL = {0, 1, 2, 3, 4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "made", lengths=LENGTHS, cameras=("front",), success=(True, False, True, False, True))
    return tmp_path / "made"


def change(root: Path, part: str, **columns: list) -> None:
    """Replace columns of the index (part meta/episodes) or of the table (part data)."""
    (path,) = root.glob(f"{part}/**/*.parquet")
    table = pq.read_table(path)
    for name, values in columns.items():
        name = name.replace("__", "/")
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    pq.write_table(table, path)


def column(root: Path, part: str, name: str) -> list:
    (path,) = root.glob(f"{part}/**/*.parquet")
    return pq.read_table(path, columns=[name])[name].to_pylist()


def dry_run(root: Path, capsys, *more: str) -> tuple[dict[int, str], dict]:
    """Return what keeps episodes out, by their numbers, and all that is said."""
    capsys.readouterr()
    words = ("data", "import", "--lerobot", str(root), "--run", str(root.parent / "run"), "--dry-run", "--json", *more)
    assert dispatch(list(words)) == 0, capsys.readouterr().err
    said = json.loads(capsys.readouterr().out)
    return {row["index"]: "; ".join(row["problems"]) for row in said["episodes"] if row["problems"]}, said


def test_shifted_ranges_keep_their_episodes_out(root, capsys):
    assert dry_run(root, capsys)[0] == {}
    for name in ("dataset_from_index", "dataset_to_index"):
        values = column(root, "meta/episodes", name)
        change(root, "meta/episodes", **{name: [value + 4 * (place >= 2) for place, value in enumerate(values)]})
    found, said = dry_run(root, capsys)
    assert set(found) == {2, 3, 4}
    assert "rows 25 to 31 are not all its own: 4 say another episode, the first, row 28, says 3" in found[2]
    assert "is frame 4, not 0" in found[2]
    assert "the table has 46" in found[4]
    # Nobody's rows are told.
    assert "rows are in no episode of the index (they say episode 2): left out" in said["notes"][0]
    # The import judges alike: two episodes, each with its own rows alone.
    assert dispatch(["data", "import", "--lerobot", str(root), "--run", str(root.parent / "run"), "--all-success"]) == 0
    assert [episode.steps for episode in stored(root.parent / "run")] == [11, 8]


def stored(run: Path) -> list:
    store = RunDirectory(run).store()
    return [read_episode(store.get(item.entry.key)) for item in newest_log(store).snapshot.episodes.values()]


def test_all_zero_ranges_are_no_episodes(root, capsys):
    change(root, "meta/episodes", dataset_from_index=[0] * 5, dataset_to_index=[0] * 5)
    found, _ = dry_run(root, capsys)
    assert set(found) == ALL
    assert "no rows" in found[0]


def test_ranges_that_overlap_keep_both_episodes_out(root, capsys):
    change(root, "meta/episodes", dataset_from_index=[0, 10, 21, 28, 36])
    found, _ = dry_run(root, capsys)
    assert set(found) == {0, 1}
    assert "gives to episode 1, too" in found[0]
    assert "gives to episode 0, too" in found[1]


def test_a_length_that_is_not_the_ranges_keeps_its_episode_out(root, capsys):
    change(root, "meta/episodes", length=[12, 9, 6, 8, 10])
    assert set(dry_run(root, capsys)[0]) == {2}


def test_frames_that_do_not_count_and_time_that_goes_back(root, capsys):
    frames, times = column(root, "data", "frame_index"), column(root, "data", "timestamp")
    frames[5], times[15] = 4, times[13]
    change(root, "data", frame_index=frames, timestamp=times)
    found, _ = dry_run(root, capsys)
    assert set(found) == {0, 1}
    assert "row 5 is frame 4, not 5" in found[0]
    assert "time does not go on" in found[1]


def test_a_range_of_another_part_of_the_video_keeps_its_episode_out(root, capsys):
    name = "videos__observation.images.front__{}_timestamp"
    begin, end = (column(root, "meta/episodes", name.format(part).replace("__", "/")) for part in ("from", "to"))
    begin[3], end[3] = begin[2], end[2]
    change(root, "meta/episodes", **{name.format("from"): begin, name.format("to"): end})
    found, _ = dry_run(root, capsys)
    assert set(found) == {2, 3}
    assert "the video of observation.images.front to episode" in found[3]


def test_labels_follow_the_episodes_own_numbers(root, capsys):
    (path,) = root.glob("meta/episodes/**/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.array([True, True, False, True, True])), path)
    labels = root.parent / "labels.csv"
    labels.write_text("episode,success\n0,1\n1,0\n3,1\n4,0\n")
    _, said = dry_run(root, capsys, "--labels", str(labels))
    outcomes = {row["index"]: row["outcome"] for row in said["episodes"]}
    assert outcomes == {0: "success", 1: "failure", 3: "success", 4: "failure"}
    assert {row["index"]: row["frames"] for row in said["episodes"]} == {0: 12, 1: 9, 3: 8, 4: 10}
    assert "7 rows are in no episode of the index (they say episode 2)" in said["notes"][0]
    # Pictures, too, are the episode's own.
    with LeRobotSource(str(root)) as source:
        (camera,) = source.layout.cameras
        seen = next(iter(source.frames(3, camera, (0,))))
    assert abs(int(np.median(seen[..., 2])) - 60) < 12  # picture() paints 20 for each episode
    labels.write_text("episode,success\n0,1\n2,1\n")
    words = ["data", "import", "--lerobot", str(root), "--run", str(root.parent / "run"), "--labels", str(labels)]
    assert dispatch(words) == 1
    assert "2 is no episode of the dataset (it has 4, 0 to 4)" in capsys.readouterr().err


def test_the_column_of_labels_is_the_episodes_own(root):
    with LeRobotSource(str(root), label="next.success") as source:
        wanted = {recording.index: recording.outcome for recording in source.recordings()}
    (path,) = root.glob("meta/episodes/**/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.take([4, 2, 3, 0, 1]), path)
    with LeRobotSource(str(root), label="next.success") as source:
        assert {recording.index: recording.outcome for recording in source.recordings()} == wanted
    assert wanted[1] is Outcome.FAILURE


def test_the_first_frames_task_counts(root):
    tasks = column(root, "data", "task_index")
    change(root, "data", task_index=[1, *tasks[1:]])
    with LeRobotSource(str(root)) as source:
        first = next(iter(source.recordings()))
    assert first.instruction == "Open the drawer"
    assert first.notes == ("later frames have 'Pick up the cup.' as their task; the first frame's counts",)
