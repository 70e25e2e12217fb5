"""A10: one frame of 5000 became an allowed command, and the scale of all others."""

import json

import numpy as np

from lwd.recipes.run_directory import RunDirectory

from .recordings import smooth, write
from .test_columns_by_count import dispatched, episodes


def test_a_glitch_is_named_and_is_no_limit(tmp_path, capsys):
    actions = [smooth(seed) for seed in range(4)]
    good = np.concatenate(actions)
    for part in actions:
        part[:, 2] = 180
    actions[2][33, 1] = 5000
    names = {"action": ["pan", "lift", "roll"]}
    write(tmp_path / "cups", {"observation.state": actions, "action": actions}, names=names)
    words = ("data", "import", "--lerobot", tmp_path / "cups", "--run", tmp_path / "run", "--all-success")
    found = json.loads(dispatched(capsys, *words, "--dry-run", "--json"))
    assert [bool(row["problems"]) for row in found["episodes"]] == [False, False, True, False]
    (column,) = found["outside_limits"]
    assert (column["column"], column["values"], column["frames"]) == ("1 (lift)", [5000.0], 1)
    assert column["episodes"] == [found["episodes"][2]["episode"]]
    assert column["high"] < 150
    assert "outside the limits: action 1 (lift) is 5000 (limits" in dispatched(capsys, *words, "--dry-run")
    assert "3 episodes committed" in dispatched(capsys, *words)
    robot = RunDirectory(tmp_path / "run").embodiment()
    span = good[:, 0].max() - good[:, 0].min()
    assert good[:, 0].max() < robot.action_high[0] < good[:, 0].max() + 0.2 * span
    # A column that never moved: in its own size.
    assert 176 < robot.action_low[2] < 180 < robot.action_high[2] < 184


def test_limits_that_are_given_let_it_in(tmp_path, capsys):
    actions = [smooth(seed) for seed in range(2)]
    actions[0][33, 1] = 5000
    write(tmp_path / "cups", {"observation.state": actions, "action": actions}, names={"action": ["a", "b", "c"]})
    (tmp_path / "limits.json").write_text('{"b": [-100, 6000]}')
    words = ("data", "import", "--lerobot", tmp_path / "cups", "--run", tmp_path / "run", "--all-success")
    assert "2 episodes committed" in dispatched(capsys, *words, "--limits", tmp_path / "limits.json")
    robot = RunDirectory(tmp_path / "run").embodiment()
    assert (robot.action_low[1], robot.action_high[1]) == (-100, 6000)
    assert robot.action_high[0] < 150
    assert len(episodes(tmp_path / "run")) == 2
