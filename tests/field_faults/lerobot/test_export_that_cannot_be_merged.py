"""D33: an export lost the names of joints, further vectors and next.*: LeRobot did not merge it with the original."""

import re

import numpy as np
import pytest
from lerobot.datasets.dataset_tools import merge_datasets, remove_feature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.rewards.classifier.modeling_classifier import Classifier
from tests.lerobot.datasets import FEATURES, make_dataset

from lwd.cli.main import dispatch

BOTH = ("--state", "observation.state", "observation.effort")


def output(capsys, *words: object) -> str:
    assert dispatch([str(word) for word in words]) == 0, capsys.readouterr().err
    return re.sub(r"\s+", " ", capsys.readouterr().out)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset, and a run into which it was imported."""
    directory = tmp_path_factory.mktemp("merge")
    written = make_dataset(directory / "cups", cameras=("front",))
    words = ["data", "import", "--lerobot", str(directory / "cups"), "--run", str(directory / "run"), *BOTH]
    assert dispatch([*words, "--label-column", "next.success"]) == 0
    return directory, written


def test_lerobot_merges_original_and_export(made, tmp_path, capsys):
    directory, written = made
    output(
        capsys,
        "data",
        "export",
        "--lerobot",
        tmp_path / "out",
        "--run",
        directory / "run",
        "--like",
        directory / "cups",
    )
    parts = [LeRobotDataset(f"local/{root.name}", root=root) for root in (directory / "cups", tmp_path / "out")]
    merged = merge_datasets(parts, "local/merged", output_dir=tmp_path / "merged")
    assert merged.num_episodes == 6
    assert set(FEATURES) | {"observation.images.front"} <= set(merged.meta.features)
    frames = parts[0].num_frames
    for key in ("observation.state", "observation.effort", "action"):
        rows = np.stack([merged.get_raw_item(frames + number)[key] for number in range(len(written[0][key]) - 1)])
        np.testing.assert_allclose(rows, written[0][key][:-1], rtol=1e-6)
    ends = [row for row in range(frames, merged.num_frames) if merged.get_raw_item(row)["next.success"]]
    assert len(ends) == 2  # the successes' last frames


def test_names_vectors_and_next_are_there_without_it(made, tmp_path, capsys):
    directory, _ = made
    output(capsys, "data", "export", "--lerobot", tmp_path / "out", "--run", directory / "run", "--lossless")
    dataset = LeRobotDataset("local/out", root=tmp_path / "out")
    for key in ("observation.state", "observation.effort", "action"):
        assert dataset.meta.features[key]["names"] == FEATURES[key]["names"]
    # What LeRobot's reward classifier trains on.
    rows = [dataset[number] for number in range(dataset.num_frames)]
    labels = [float(row["next.reward"]) for row in rows]
    assert sorted(set(labels)) == [0.0, 1.0]
    assert sum(bool(row["next.done"]) for row in rows) == 3
    config = type("Config", (), {"input_features": {"observation.images.front": None}})()
    batch = {key: rows[-1][key][None] for key in ("observation.images.front", "next.reward")}
    owner = type("Owner", (), {"config": config})()
    images, label = Classifier.extract_images_and_labels(owner, batch)
    assert images[0].shape == (1, 3, 48, 64)
    assert float(label) == 1.0
    output(capsys, "data", "import", "--lerobot", tmp_path / "out", "--run", tmp_path / "again")


def test_what_an_export_cannot_have_is_named(made, tmp_path, capsys):
    directory, _ = made
    narrow = tmp_path / "narrow"
    words = ["data", "import", "--lerobot", str(directory / "cups"), "--run", str(narrow), "--all-success"]
    output(capsys, *words)
    like = ["data", "export", "--run", str(narrow), "--like", str(directory / "cups"), "--lerobot", str(tmp_path / "a")]
    assert dispatch(like) == 1
    assert "episodes have no observation.effort, which" in re.sub(r"\s+", " ", capsys.readouterr().err)
    original = LeRobotDataset("local/cups", root=directory / "cups")
    slim = remove_feature(original, "observation.effort", output_dir=tmp_path / "slim", repo_id="local/slim")
    like[5], like[7] = str(tmp_path / "slim"), str(tmp_path / "b")
    output(capsys, *like)
    export = LeRobotDataset("local/b", root=tmp_path / "b")
    assert merge_datasets([slim, export], "local/m", output_dir=tmp_path / "m").num_episodes == 6
