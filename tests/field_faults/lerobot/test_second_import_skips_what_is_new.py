"""A second import knows recordings by their content, not by their place and their dataset's name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from tests.lerobot.datasets import make_dataset, picture

from lwd.cli.main import dispatch
from lwd.data.episode_file import read_episode
from lwd.data.revocation import newest_log
from lwd.data.validation import EpisodeLimits
from lwd.fleet.ingest import ingest
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Episode


@pytest.fixture(scope="module")
def cups(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("first") / "cups"
    make_dataset(root, lengths=(12, 9, 7, 8, 6), cameras=("front",), success=(True,) * 5)
    return root


def imported(capsys, run: Path, *roots: Path, more: tuple[str, ...] = ()) -> dict:
    words = ["data", "import", "--run", str(run), "--json", *more, "--lerobot", *map(str, roots)]
    capsys.readouterr()
    assert dispatch(words) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def stored(run: Path) -> list[Episode]:
    store = RunDirectory(run).store()
    return [read_episode(store.get(item.entry.key)) for item in newest_log(store).snapshot.episodes.values()]


def record_one_more(root: Path, seed: int) -> np.ndarray:
    """Go on with a dataset, as LeRobot's recorder does."""
    dataset = LeRobotDataset.resume("local/made", root=root)
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(10, 3)).astype(np.float32)
    for frame, state in enumerate(states):
        dataset.add_frame(
            {
                "observation.state": state,
                "observation.effort": rng.normal(size=2),
                "action": rng.uniform(-0.9, 0.9, 3).astype(np.float32),
                "is_intervention": np.array([True]),
                "next.success": np.array([False]),
                "observation.images.front": picture(9, frame, 0),
                "task": "Pick up the cup.",
            }
        )
    dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return states


def test_the_first_one_deleted_and_one_more_recorded_brings_exactly_that_one(cups, tmp_path, capsys):
    run = tmp_path / "run"
    assert len(imported(capsys, run, cups)["committed"]) == 5
    again = imported(capsys, run, cups)
    assert (again["committed"], len(again["already_there"])) == ([], 5)
    delete_episodes(LeRobotDataset("local/cups", root=cups), [0], output_dir=tmp_path / "cups", repo_id="local/cups")
    states = record_one_more(tmp_path / "cups", 5)
    found = imported(capsys, run, tmp_path / "cups", more=("--widen-limits",))
    assert (len(found["committed"]), len(found["already_there"]), found["refused"]) == (1, 4, [])
    assert [item["index"] for item in found["already_there"]] == [0, 1, 2, 3]
    np.testing.assert_array_equal(stored(run)[-1].states_TS, states)


def test_two_datasets_whose_directories_have_one_name_both_come_in_and_a_renamed_one_does_not_again(
    cups, tmp_path, capsys
):
    run = tmp_path / "run"
    # The same numbers and other pictures: another recording.
    other = tmp_path / "b" / "cups"
    make_dataset(other, lengths=(12, 9), cameras=("front",), success=(True, True), use_videos=False)
    found = imported(capsys, run, cups, other)
    assert len(found["committed"]) + len(found["already_there"]) == 7
    third = tmp_path / "c" / "cups"
    make_dataset(third, lengths=(11,), cameras=("front",), success=(True,), use_videos=False)
    assert len(imported(capsys, run, third, more=("--widen-limits",))["committed"]) == 1
    for name in ("Becher", "杯子", "コップ"):
        shutil.copytree(third, tmp_path / name)
        assert imported(capsys, run, tmp_path / name)["committed"] == [], name


def test_names_without_ascii_letters_are_two_robots(tmp_path, capsys):
    for name, length in (("杯子", 12), ("引出", 9)):
        make_dataset(tmp_path / name, lengths=(length,), cameras=(), success=(True,), use_videos=False)
    found = imported(capsys, tmp_path / "run", tmp_path / "杯子", tmp_path / "引出")
    assert len({identity.split("/")[0] for identity in found["committed"]}) == 2


def test_episodes_that_were_imported_by_their_number_are_known_by_their_content(cups, tmp_path, capsys):
    """Of an older version: the same ones are passed over, and one that only has their number is not."""
    imported(capsys, tmp_path / "new", cups)
    robot = RunDirectory(tmp_path / "new").embodiment()
    old = RunDirectory(tmp_path / "old")
    numbered = [
        replace(episode, info=replace(episode.info, episode_id=f"cups-{number:06d}", seed=number))
        for number, episode in enumerate(stored(tmp_path / "new")[1:])
    ]
    ingest(old.store(), numbered, EpisodeLimits(embodiment=robot))
    shutil.copy(RunDirectory(tmp_path / "new").embodiment_path, old.embodiment_path)
    found = imported(capsys, tmp_path / "old", cups)
    assert len(found["committed"]) == 1
    assert [item["stored_as"] for item in found["already_there"]] == [f"cups/cups-{n:06d}" for n in range(4)]


def test_a_recording_that_is_twice_in_a_dataset_comes_in_once(cups, tmp_path, capsys):
    found = imported(capsys, tmp_path / "run", cups, cups)
    assert (len(found["committed"]), len(found["already_there"])) == (5, 5)
