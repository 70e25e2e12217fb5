"""C21: 30 fps data into a 20 Hz run: "give --control-hz 20" failed with "divided by a whole number"."""

import json
import re

import numpy as np

from .recordings import smooth, write
from .test_columns_by_count import dispatched, episodes


def test_the_remedy_that_is_suggested_works(tmp_path, capsys):
    action = [smooth(0, frames=91)]
    state = [np.repeat(np.arange(91, dtype=np.float32)[:, None], 3, axis=1)]
    for name, fps in (("slow", 20), ("fast", 30), ("slowest", 10)):
        write(tmp_path / name, {"observation.state": state, "action": action}, fps=fps)
    run = ("--run", tmp_path / "run", "--all-success")
    dispatched(capsys, "data", "import", "--lerobot", tmp_path / "slow", *run)
    fast = ("data", "import", "--lerobot", tmp_path / "fast", *run)
    (problem,) = json.loads(dispatched(capsys, *fast, "--dry-run", "--json"))["episodes"][0]["problems"]
    remedy = re.search(r"give (--control-hz) (\S+)$", problem).groups()
    assert "1 episodes committed" in dispatched(capsys, *fast, *remedy)
    resampled = episodes(tmp_path / "run")[1]
    assert resampled.info.control_hz == 20
    # The recorded frame that is nearest to each control step, and the last command before the next one.
    observed = resampled.states_TS[:, 0]
    assert observed[:5].tolist() == [0, 2, 3, 5, 6]
    assert np.abs(observed / 30 - np.arange(len(observed)) / 20).max() <= 0.5 / 30 + 1e-6
    assert len(resampled.actions_TA) == 60
    np.testing.assert_array_equal(resampled.actions_TA, action[0][observed[1:].astype(int) - 1])
    (problem,) = json.loads(
        dispatched(capsys, "data", "import", "--lerobot", tmp_path / "slowest", *run, "--dry-run", "--json")
    )["episodes"][0]["problems"]
    assert "the rate is 10 Hz, the run's is 20 Hz: frames that were not recorded cannot be made up" in problem
