"""Limits of actions from recordings: with a margin, without glitches."""

import json

import numpy as np
import pytest

from lwd.data.lerobot.action_limits import MARGIN, limits_of, read_limits
from lwd.errors import ConfigError

RNG = np.random.default_rng(0)


def reach(frames: int, seed: int) -> np.ndarray:
    """A joint's targets, as a person drives it: smooth, here and there, in degrees."""
    rng = np.random.default_rng(seed)
    goals = np.repeat(rng.uniform(-60, 90, frames // 25 + 1), 25)[:frames]
    return np.convolve(goals, np.ones(20) / 20, mode="same")


def column(values) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]


@pytest.mark.parametrize("frames", [12, 60, 5000, 100_000])
@pytest.mark.parametrize("kind", ["uniform", "reach", "normal"])
def test_one_frame_of_5000_is_no_limit(frames, kind):
    good = {"uniform": RNG.uniform(-1, 1, frames), "reach": reach(frames, 0), "normal": RNG.normal(size=frames)}[kind]
    ((low, high),), outlying = limits_of(column(good))
    assert not outlying
    span = good.max() - good.min()
    assert (low, high) == pytest.approx((good.min() - MARGIN * span, good.max() + MARGIN * span), rel=1e-4)
    bad = good.copy()
    bad[frames // 2] = 5000
    ((low, high),), (found,) = limits_of(column(bad))
    assert good.min() > low > -200
    assert good.max() <= high < 200
    assert (found.column, found.values, found.frames) == (0, (5000.0,), 1)


def test_what_is_rare_and_not_far_and_what_is_far_and_not_rare_is_within():
    glimpse = RNG.uniform(0, 10, 5000)
    glimpse[7] = 25
    gripper = np.zeros(200)
    gripper[90:130] = 100
    limits, outlying = limits_of(np.stack([np.resize(glimpse, 200), gripper], axis=1))
    assert not outlying
    assert limits[0][1] > 25
    assert limits[1] == (0, 100)


def test_columns_that_stand_still_have_limits_of_their_own_size():
    moving = RNG.uniform(-1000, 1000, 400)
    still = [np.full(400, value) for value in (180.0, -0.002, 0.0)]
    limits, outlying = limits_of(np.stack([moving, *still], axis=1))
    assert not outlying
    assert limits[1] == pytest.approx((178.2, 181.8))
    assert limits[2] == pytest.approx((-0.00202, -0.00198))
    assert 0.5 < limits[3][1] == -limits[3][0] < 3
    alone, _ = limits_of(column(np.zeros(5)))
    assert alone == ((-0.001, 0.001),)


def test_hard_ends_are_not_passed():
    limits, _ = limits_of(column(np.clip(RNG.normal(size=500), -1, 2)))
    assert limits[0][0] == -1
    assert limits[0][1] > 2


def test_a_second_recording_is_within():
    """Six of six were refused when the first one's extremes were the limits."""
    inside = 0
    for seed in range(6):
        ((low, high),), _ = limits_of(column(reach(2000, 2 * seed)))
        second = reach(2000, 2 * seed + 1)
        inside += bool(low <= second.min() and second.max() <= high)
    assert inside == 6


def test_given_limits(tmp_path):
    path = tmp_path / "limits.json"
    path.write_text(json.dumps({"b": [-1, 2], "0": [0, 5.5]}))
    assert read_limits(path, ["a", "b"], 2) == {1: (-1, 2), 0: (0, 5.5)}
    for text, said in (
        ('{"c": [0, 1]}', "'c' is no column of the action; it has a, b, 0, 1"),
        ('{"a": [1, 1]}', r"a is \[1, 1\]; give \[low, high\]"),
        ('{"a": [0, true]}', "give"),
        ('{"a": 5}', "give"),
        ("[1]", "no column"),
        ("{", "no JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_limits(path, ["a", "b"], 2)
    with pytest.raises(ConfigError, match="no such file"):
        read_limits(tmp_path / "none.json", [], 1)
