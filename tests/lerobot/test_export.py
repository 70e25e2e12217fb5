"""`lwd data export`: LeRobot's loader opens it, and its import is the same episodes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lwd.cli.main import dispatch
from lwd.data.episode_file import read_episode
from lwd.data.frames import decode_frame
from lwd.data.revocation import newest_log
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Episode

from .datasets import FPS, make_dataset

BOTH = ("--state", "observation.state", "observation.effort")


def output(capsys, *words: object) -> str:
    assert dispatch([str(word) for word in words]) == 0, capsys.readouterr().err
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def episodes_of(run: Path) -> list[Episode]:
    store = RunDirectory(run).store()
    return [read_episode(store.get(item.entry.key)) for item in newest_log(store).snapshot.episodes.values()]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose episodes come from a dataset."""
    directory = tmp_path_factory.mktemp("export")
    make_dataset(directory / "cups", cameras=("front",), use_videos=False)
    words = ["data", "import", "--lerobot", str(directory / "cups"), "--run", str(directory / "run")]
    assert dispatch([*words, "--label-column", "next.success", "--frames", "png", *BOTH]) == 0
    return directory / "run"


def test_lerobots_loader_opens_it(run, tmp_path, capsys):
    output(capsys, "data", "export", "--lerobot", tmp_path / "out", "--run", run, "--task", "pick_up_the_cup")
    dataset = LeRobotDataset("local/out", root=tmp_path / "out", video_backend="pyav")
    assert (dataset.num_episodes, dataset.fps, dataset.meta.robot_type) == (2, FPS, "toy_arm")
    assert list(dataset.meta.tasks.index) == ["Pick up the cup."]
    assert dataset.meta.video_keys == ["observation.images.front"]
    episodes = episodes_of(run)[0::2]
    states = np.concatenate([episode.states_TS for episode in episodes])
    assert len(dataset) == len(states)
    np.testing.assert_allclose(dataset.meta.stats["observation.state"]["mean"], states[:, :3].mean(axis=0), rtol=1e-4)
    rows = [dataset[index] for index in range(len(dataset))]
    np.testing.assert_array_equal(np.stack([row["observation.state"] for row in rows]), states[:, :3])
    np.testing.assert_array_equal(np.stack([row["observation.effort"] for row in rows]), states[:, 3:])
    controllers = np.concatenate([[*e.controllers_T, e.controllers_T[-1]] for e in episodes])
    assert [int(row["controller"]) for row in rows] == controllers.tolist()
    assert [bool(row["intervention"]) for row in rows] == (controllers > 0).tolist()
    assert {row["outcome"] for row in rows} == {"success"}
    frame = rows[4]["observation.images.front"].numpy().transpose(1, 2, 0) * 255
    assert np.abs(frame - decode_frame(episodes[0].images["front"][4])).mean() < 3  # LeRobot's AV1


@pytest.mark.parametrize("lossless", [True, False])
def test_in_out_in_is_the_same(run, lossless, tmp_path, capsys):
    flag = ["--lossless"] if lossless else []
    output(capsys, "data", "export", "--lerobot", tmp_path / "out", "--run", run, *flag)
    output(capsys, "data", "import", "--lerobot", tmp_path / "out", "--run", tmp_path / "again", "--frames", "png")
    first, second = episodes_of(run), episodes_of(tmp_path / "again")
    assert RunDirectory(tmp_path / "again").embodiment() == RunDirectory(run).embodiment()
    for before, after in zip(first, second, strict=True):
        assert after.info == before.info
        for name in ("states_TS", "actions_TA", "controllers_T"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        for old, new in zip(before.images["front"], after.images["front"], strict=True):
            off = np.abs(decode_frame(old).astype(int) - decode_frame(new))
            assert off.max() == 0 if lossless else off.mean() < 3


def test_conditions_and_snapshots_select(run, tmp_path, capsys):
    made = tmp_path / "out"
    second = episodes_of(run)[1].info.episode_id
    said = output(capsys, "data", "export", "--lerobot", made, "--run", run, "--episode", second, "--lossless")
    assert f"1 episodes in {made}" in said
    info = json.loads((made / "meta" / "info.json").read_text())
    assert (info["total_episodes"], info["codebase_version"]) == (1, "v3.0")
    for words, explanation in (
        (["--lerobot", made], "exists: give a directory that does not"),
        (["--lerobot", tmp_path / "b", "--task", "fly"], "no episode of snapshot 1 fulfils"),
    ):
        assert dispatch(["data", "export", "--run", str(run), *map(str, words)]) == 1
        assert explanation in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_value_network_fills_the_column_value(run, tmp_path, capsys):
    from lwd.models.checkpoint import value_bytes
    from lwd.models.critic import CriticConfig, ValueCritic
    from lwd.models.normalization import StateStatistics
    from lwd.recipes.lerobot_data import value_of

    embodiment = RunDirectory(run).embodiment()
    statistics = StateStatistics(mean=(0.0,) * 5, std=(1.0,) * 5)
    config = CriticConfig(token_width=8, readout_size=16, action_width=8, pooling_heads=2, width=32, depth=2)
    network = ValueCritic(replace(embodiment), config, statistics, horizon=3)
    (tmp_path / "value.safetensors").write_bytes(value_bytes(network))
    output(
        capsys, "data", "export", "--lerobot", tmp_path / "out", "--run", run, "--lossless",
        "--value", tmp_path / "value.safetensors",
    )  # fmt: skip
    dataset = LeRobotDataset("local/out", root=tmp_path / "out")
    found = np.array([float(dataset.get_raw_item(index)["value"]) for index in range(len(dataset))])
    wanted = np.concatenate([value_of(tmp_path / "value.safetensors")(episode) for episode in episodes_of(run)])
    np.testing.assert_array_equal(found, wanted)
    assert found.std() > 0
    assert ((found > 0) & (found < 1)).all()
