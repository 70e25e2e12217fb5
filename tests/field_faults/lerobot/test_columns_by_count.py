"""A3: two arms that were recorded in the other order came in, since the counts agreed."""

import json
import re

import numpy as np
import pytest

from lwd.cli.main import dispatch
from lwd.data.episode_file import read_episode
from lwd.data.revocation import newest_log
from lwd.recipes.run_directory import RunDirectory

from .recordings import smooth, write

ARMS = ["left", "right", "grip"]
TURNED = [1, 0, 2]


def dispatched(capsys, *words: object, refused: bool = False) -> str:
    assert dispatch([str(word) for word in words]) == int(refused), capsys.readouterr().err
    said = capsys.readouterr()
    return re.sub(r"\s+", " ", said.err if refused else said.out)


def columns(seed: int, order: list[int], names: list[str]) -> tuple[dict, dict]:
    state, effort, action = smooth(seed), smooth(seed + 50, size=2), smooth(seed)
    data = {"observation.state": [state[:, order]], "observation.effort": [effort], "action": [action[:, order]]}
    return data, {"observation.state": names, "action": names}


def episodes(run):
    store = RunDirectory(run).store()
    return [read_episode(store.get(item.entry.key)) for item in newest_log(store).snapshot.episodes.values()]


def test_another_order_is_read_in_the_runs(tmp_path, capsys):
    for name, order in (("first", [0, 1, 2]), ("second", TURNED)):
        data, names = columns(0, order, [ARMS[place] for place in order])
        write(tmp_path / name, data, names=names)
        words = ("--run", tmp_path / "run", "--all-success", "--name", name)
        both = ("--state", "observation.state", "observation.effort") if name == "first" else ()
        dispatched(capsys, "data", "import", "--lerobot", tmp_path / name, *words, *both)
    first, second = episodes(tmp_path / "run")
    np.testing.assert_array_equal(first.actions_TA, second.actions_TA)
    np.testing.assert_array_equal(first.states_TS, second.states_TS)
    assert RunDirectory(tmp_path / "run").embodiment().action_names == tuple(ARMS)
    # And out of it in the order of another dataset.
    first = episodes(tmp_path / "run")[0].info.episode_id
    like = ("--run", tmp_path / "run", "--like", tmp_path / "second", "--episode", first)
    dispatched(capsys, "data", "export", "--lerobot", tmp_path / "out", *like)
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    exported, original = (LeRobotDataset("local/x", root=tmp_path / name) for name in ("out", "second"))
    for key in ("observation.state", "action"):
        np.testing.assert_array_equal(exported.get_raw_item(7)[key], original.get_raw_item(7)[key])


@pytest.mark.parametrize("key", ["observation.state", "action"])
def test_other_names_are_refused_with_both_lists(key, tmp_path, capsys):
    data, names = columns(0, [0, 1, 2], ARMS)
    write(tmp_path / "first", data, names=names)
    write(tmp_path / "second", data, names={**names, key: ["left", "lift", "grip"]})
    run = ("--run", tmp_path / "run", "--all-success")
    dispatched(capsys, "data", "import", "--lerobot", tmp_path / "first", *run)
    second = ("data", "import", "--lerobot", tmp_path / "second", *run)
    (problem,) = json.loads(dispatched(capsys, *second, "--dry-run", "--json"))["episodes"][0]["problems"]
    assert "is [left, lift, grip], the run's is [left, right, grip]: give what the run is of" in problem
    assert "no episode can come in" in dispatched(capsys, *second, refused=True)


def test_a_camera_of_other_proportions_is_refused(tmp_path, capsys):
    from tests.lerobot.datasets import make_dataset

    make_dataset(tmp_path / "cups", cameras=("front",), use_videos=False)
    run = ("--run", tmp_path / "run", "--all-success")
    dispatched(capsys, "data", "import", "--lerobot", tmp_path / "cups", *run, "--image-size", 24, 24)
    robot = RunDirectory(tmp_path / "run").embodiment()
    assert (robot.cameras, robot.recorded_cameras) == ({"front": (24, 24)}, {"front": (48, 64)})
    # The same camera still fits, though its pictures were squeezed.
    assert "0 episodes committed" in dispatched(capsys, "data", "import", "--lerobot", tmp_path / "cups", *run)
    path = tmp_path / "run" / "embodiment.json"
    path.write_text(path.read_text().replace("48,", "60,"))
    words = ("data", "import", "--lerobot", tmp_path / "cups", *run, "--dry-run", "--json")
    (problem,) = json.loads(dispatched(capsys, *words))["episodes"][0]["problems"]
    assert "camera front is 48x64 (height x width), the run's front is 60x64: it would be squeezed" in problem
