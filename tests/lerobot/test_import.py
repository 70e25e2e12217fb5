"""`lwd data import` on datasets that LeRobot's own writer made."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lwd.cli.main import dispatch
from lwd.data.episode_file import read_episode
from lwd.data.frames import decode_frame
from lwd.data.revocation import newest_log
from lwd.fleet.embodiment import read_embodiment
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Episode, Outcome, Source

from .datasets import FPS, HEIGHT, WIDTH, make_dataset, make_old_dataset, picture


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("lerobot") / "cups"
    return root, make_dataset(root)


def output(capsys, *words: object) -> str:
    assert dispatch([str(word) for word in words]) == 0, capsys.readouterr().err
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    assert dispatch([str(word) for word in words]) == 1
    return capsys.readouterr().err


def episodes_of(run: Path) -> list[Episode]:
    store = RunDirectory(run).store()
    return [read_episode(store.get(item.entry.key)) for item in newest_log(store).snapshot.episodes.values()]


def test_numbers_frames_tags_tasks_and_labels_come_in(made, tmp_path, capsys):
    root, written = made
    said = output(
        capsys, "data", "import", "--lerobot", root, "--run", tmp_path / "run", "--label-column", "next.success",
        "--state", "observation.state", "observation.effort",
    )  # fmt: skip
    assert "3 episodes committed, 2 success, 1 failure" in said
    robot = read_embodiment(tmp_path / "run" / "embodiment.json")
    assert (robot.name, robot.control_hz) == ("toy_arm", FPS)
    assert [(token.name, token.size) for token in robot.state_tokens] == [("state", 3), ("effort", 2)]
    assert robot.state_tokens[0].names == robot.action_names == ("a.pos", "b.pos", "grip.pos")
    assert dict(robot.cameras) == {"front": (HEIGHT, WIDTH), "wrist": (HEIGHT, WIDTH)}
    for index, (episode, numbers) in enumerate(zip(episodes_of(tmp_path / "run"), written, strict=True)):
        states = np.concatenate([numbers["observation.state"], numbers["observation.effort"]], axis=1)
        np.testing.assert_array_equal(episode.states_TS, states.astype(np.float32))
        np.testing.assert_array_equal(episode.actions_TA, numbers["action"][:-1])
        np.testing.assert_array_equal(episode.controllers_T, numbers["is_intervention"][:-1, 0])
        wanted = (Outcome.SUCCESS, Outcome.FAILURE)[index % 2]
        assert episode.info.outcome is wanted
        assert episode.info.source is (Source.DEMONSTRATION, Source.ROLLOUT)[index % 2]
        assert episode.info.instruction == ("Pick up the cup.", "Open the drawer")[index % 2]
        assert episode.info.task == ("pick_up_the_cup", "open_the_drawer")[index % 2]
        for number, camera in enumerate(("front", "wrist")):
            for step, frame in enumerate(episode.images[camera]):
                off = np.abs(decode_frame(frame).astype(int) - picture(index, step, number))
                assert off.mean() < 4, (index, camera, step)  # AV1 at LeRobot's default quality, then JPEG


def test_repeating_commits_nothing_and_other_labels_are_refused(made, tmp_path, capsys):
    words = ("data", "import", "--lerobot", made[0], "--run", tmp_path / "run")
    assert "3 unlabelled" in output(capsys, *words)
    assert "0 episodes committed" in output(capsys, *words)
    assert newest_log(RunDirectory(tmp_path / "run").store()).version == 1
    assert "is in the store as rollout, unlabelled" in refused(capsys, *words, "--all-success")
    assert "3 episodes committed" in output(capsys, *words, "--all-success", "--name", "cups-labelled")


def test_unlabelled_is_imitated_only_where_the_user_says_so(made, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("episode,success\n0,true\n1,\n")
    words = ("data", "import", "--lerobot", made[0], "--labels", labels)
    output(capsys, *words, "--run", tmp_path / "a")
    output(capsys, *words, "--run", tmp_path / "b", "--imitate-unlabelled")
    found = [[(e.info.source, e.info.outcome) for e in episodes_of(tmp_path / run)] for run in "ab"]
    assert found[0] == [(Source.DEMONSTRATION, Outcome.SUCCESS), *[(Source.ROLLOUT, Outcome.UNLABELLED)] * 2]
    assert found[1] == [(Source.DEMONSTRATION, Outcome.SUCCESS), *[(Source.DEMONSTRATION, Outcome.UNLABELLED)] * 2]


def test_a_lower_rate_takes_every_second_frame_and_the_last_command(made, tmp_path, capsys):
    output(
        capsys, "data", "import", "--lerobot", made[0], "--run", tmp_path / "run", "--all-success",
        "--control-hz", FPS // 2, "--image-size", "24", "32", "--frames", "png",
    )  # fmt: skip
    first, numbers = episodes_of(tmp_path / "run")[0], made[1][0]
    assert first.info.control_hz == FPS / 2
    np.testing.assert_array_equal(first.states_TS[:, :3], numbers["observation.state"][0:11:2])
    np.testing.assert_array_equal(first.actions_TA, numbers["action"][1:10:2])
    np.testing.assert_array_equal(first.controllers_T, numbers["is_intervention"][:10, 0].reshape(5, 2).max(axis=1))
    assert decode_frame(first.images["front"][0]).shape == (24, 32, 3)
    assert "control_hz is 21, the dataset was recorded at 20" in refused(
        capsys, "data", "import", "--lerobot", made[0], "--run", tmp_path / "b", "--control-hz", "21"
    )


def test_a_dry_run_shows_what_is_wrong_and_writes_nothing(tmp_path, capsys):
    root, run = tmp_path / "broken", tmp_path / "run"
    make_dataset(root, lengths=(12, 9, 1), nan_in=1, use_videos=False)
    words = ("data", "import", "--lerobot", root, "--run", run)
    rows = json.loads(output(capsys, *words, "--dry-run", "--json"))["episodes"]
    assert [row["problems"] for row in rows] == [
        [], ["action is not finite in 1 frames, first in 3"], ["1 frames are no step at this rate"]
    ]  # fmt: skip
    assert "1 of 3 episodes would come in, 11 steps, 1 unlabelled" in output(capsys, *words, "--dry-run")
    assert not run.exists()
    assert "1 episodes committed, 1 unlabelled; 2 were left out" in output(capsys, *words)


def test_a_dataset_that_does_not_fit_the_run_is_named(made, tmp_path, capsys):
    run = tmp_path / "run"
    both = ("--state", "observation.state", "observation.effort")
    output(capsys, "data", "import", "--lerobot", made[0], "--run", run, "--all-success", *both)
    other = tmp_path / "one-camera"
    make_dataset(other, cameras=("front",), use_videos=False)
    narrow = ("data", "import", "--lerobot", other, "--run", run, "--state", "observation.state")
    state, cameras = json.loads(output(capsys, *narrow, "--dry-run", "--json"))["episodes"][0]["problems"]
    assert "the state is state ([a.pos, b.pos, grip.pos]), the run's is state ([a.pos, b.pos, grip.pos]), " in state
    assert "effort ([a, b]): vectors are matched by their names" in state
    assert "the cameras are front 48x64, the run's front 48x64, wrist 48x64" in cameras
    assert "no episode can come in" in refused(capsys, *narrow)


def test_a_video_that_was_cut_is_found_by_the_dry_run(tmp_path, capsys):
    root = tmp_path / "cut"
    make_dataset(root, lengths=(12,), success=(True,))
    for video in root.glob("videos/*wrist*/**/*.mp4"):
        video.write_bytes(video.read_bytes()[:300])
    (row,) = json.loads(output(capsys, "data", "import", "--lerobot", root, "--run", tmp_path, "--dry-run", "--json"))[
        "episodes"
    ]
    assert "frames of camera wrist cannot be decoded" in row["problems"][0]


@pytest.mark.parametrize(
    ("words", "explanation"),
    [
        (("--label-column", "won"), "label column 'won' is neither a feature"),
        (("--intervention-column", "who"), "intervention column 'who' is not in the dataset"),
        (("--state", "observation.images.front"), "cannot be used: it is video"),
        (("--all-success", "--label-column", "next.success"), "choose one of"),
    ],
)
def test_wrong_options_are_explained(made, tmp_path, words, explanation, capsys):
    said = refused(capsys, "data", "import", "--lerobot", made[0], "--run", tmp_path / "run", *words)
    assert explanation in said
    assert "meta/info.json cannot be read" in refused(
        capsys, "data", "import", "--lerobot", tmp_path, "--run", tmp_path / "run"
    )


def test_version_2_1_comes_in_through_lerobots_converter_and_stays_as_it_is(tmp_path, capsys):
    root = tmp_path / "old"
    written = make_old_dataset(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    said = output(capsys, "data", "import", "--lerobot", root, "--run", tmp_path / "run", "--all-success")
    assert "2 episodes committed, 2 success" in said
    for episode, numbers in zip(episodes_of(tmp_path / "run"), written, strict=True):
        np.testing.assert_array_equal(episode.actions_TA, numbers["action"][:-1])
        for step, frame in enumerate(episode.images["front"]):
            assert np.abs(decode_frame(frame).astype(int) - picture(0, step, 0)).mean() < 4
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
