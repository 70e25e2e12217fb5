"""What needs no LeRobot: features, labels, steps and problems of recorded episodes."""

import re

import numpy as np
import pytest

from lwd.data.lerobot.importing import ImportSettings, plan
from lwd.data.lerobot.labels import outcome_of_column, read_labels
from lwd.data.lerobot.layout import derived_embodiment, layout_of, stride_for
from lwd.data.lerobot.recording import Recording, control_steps
from lwd.errors import ConfigError
from lwd.fleet.embodiment import embodiment_json, parse_embodiment
from lwd.types import Outcome, Source

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
    "observation.velocity": {"dtype": "float64", "shape": [1]},
    "observation.images.front": {"dtype": "video", "shape": [3, 48, 64]},
    "observation.images.depth": {"dtype": "video", "shape": [48, 64, 1]},
    "observation.grid": {"dtype": "float32", "shape": [4, 4]},
    "action": {"dtype": "float32", "shape": [2]},
    "intervention": {"dtype": "bool", "shape": [1]},
    "timestamp": {"dtype": "float32", "shape": [1]},
}


def recording(frames: int = 7, **changes) -> Recording:
    numbers = np.arange(frames, dtype=np.float32)
    fields = {
        "index": 4, "instruction": "Stack it!", "outcome": Outcome.UNLABELLED,
        "states_NS": np.stack([numbers, 10 + numbers, 20 + numbers], axis=1),
        "actions_NA": np.stack([numbers, -numbers], axis=1),
        "human_N": (numbers == 3).astype(np.uint8),
    }  # fmt: skip
    return Recording(**(fields | changes))


@pytest.fixture
def layout():
    return layout_of(FEATURES, 30.0, state=("observation.state", "observation.velocity"))


@pytest.fixture
def arm(layout):
    return derived_embodiment(layout, recording().actions_NA, name="arm", control_hz=30.0, image_size=None)


def test_features_become_a_robot(layout, arm):
    assert [(token.name, token.size) for token in arm.state_tokens] == [("state", 2), ("velocity", 1)]
    assert dict(arm.cameras) == {"front": (48, 64)}
    assert np.allclose((arm.action_low, arm.action_high), ((-0.6, -6.6), (6.6, 0.6)))
    assert layout.controller == "intervention"
    assert set(layout.left_out) == {"observation.images.depth", "observation.grid"}
    assert [token.names for token in arm.state_tokens] == [("a", "b"), ()]
    assert parse_embodiment(embodiment_json(arm), "here") == arm


def test_without_a_finite_number_there_are_limits_all_the_same(layout):
    nothing = derived_embodiment(layout, np.full((2, 2), np.nan, np.float32), name="a", control_hz=1, image_size=None)
    assert (nothing.action_low, nothing.action_high) == ((-1.0, -1.0), (1.0, 1.0))


def test_chosen_features_keep_their_order_and_cameras_stay():
    found = layout_of(FEATURES, 30.0, state=("observation.velocity", "observation.state"))
    assert [column.key for column in found.state] == ["observation.velocity", "observation.state"]
    assert [camera.name for camera in found.cameras] == ["front"]
    assert [column.key for column in layout_of(FEATURES, 30.0, state=("observation.state",)).state] == [
        "observation.state"
    ]


@pytest.mark.parametrize(
    ("features", "options", "explanation"),
    [
        ({key: FEATURES[key] for key in ("action",)}, {}, "has no observation.state, so it has no state"),
        (
            {"observation.a": FEATURES["action"], "observation.b": FEATURES["action"], "action": FEATURES["action"]},
            {},
            "has no observation.state but observation.a, observation.b: name the state's with --state",
        ),
        ({key: FEATURES[key] for key in ("observation.state",)}, {}, "has no vector `action`"),
        (FEATURES, {"state": ("observation.grid",)}, "'observation.grid' cannot be used: it is float32 of shape"),
        (FEATURES, {"state": ("observation.pose",)}, "'observation.pose' is not in the dataset"),
        (FEATURES, {"controller": "who"}, "'who' is not in the dataset"),
    ],
)
def test_what_a_dataset_lacks_is_named(features, options, explanation):
    with pytest.raises(ConfigError, match=explanation):
        layout_of(features, 30.0, **options)


def test_the_last_action_is_dropped_because_nobody_saw_what_it_led_to():
    steps = control_steps(recording(), 1)
    assert steps.states_TS[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert steps.actions_TA[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert steps.human_T.tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(("frames", "observed"), [(7, [0, 3, 6]), (8, [0, 3, 6]), (9, [0, 3, 6]), (10, [0, 3, 6, 9])])
def test_a_stride_takes_the_last_command_of_the_merged_frames(frames, observed):
    steps = control_steps(recording(frames), 3)
    assert list(steps.frame_of_T) == steps.states_TS[:, 0].tolist() == observed
    assert steps.actions_TA[:, 0].tolist() == [frame + 2 for frame in observed[:-1]]
    assert steps.human_T.tolist() == [0, 1, 0][: len(observed) - 1]


def test_rates_are_the_recordings_or_below():
    assert [stride_for(30, hz) for hz in (None, 30, 15, 10, 7.5, 20)] == [1, 1, 2, 3, 4, 1.5]
    for wrong in (31, 60, 0, -10, float("nan")):
        with pytest.raises(ConfigError, match="give that or less"):
            stride_for(30, wrong)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"frames": 1}, "1 frames are no step"),
        ({"states_NS": np.full((7, 3), np.inf, np.float32)}, "state is not finite in 7 frames, first in 0"),
        (
            {"actions_NA": np.full((7, 2), 7.0, np.float32)},
            r"action 0 reaches \[7, 7\], outside the limits \[-0.6, 6.6\]: .* --limits",
        ),
        ({"instruction": " "}, "no task string"),
        ({"states_NS": np.zeros((7, 3), np.float32)}, ""),
    ],
)
def test_problems_keep_an_episode_out(layout, arm, changes, problem):
    found = plan(recording(**changes), layout, arm, ImportSettings(name="set"), task="pick_up").problems
    assert bool(found) == bool(problem)
    if problem:
        assert len(found) == 1
        pytest.importorskip("re").search(problem, found[0]) or pytest.fail(found[0])


@pytest.mark.parametrize(
    ("settings", "source", "outcome"),
    [
        ({}, Source.ROLLOUT, Outcome.UNLABELLED),
        ({"imitate_unlabelled": True}, Source.DEMONSTRATION, Outcome.UNLABELLED),
        ({"all_success": True}, Source.DEMONSTRATION, Outcome.SUCCESS),
        ({"all_success": True, "source": Source.ROLLOUT}, Source.ROLLOUT, Outcome.SUCCESS),
        ({"labels": {4: Outcome.TIME_LIMIT}}, Source.ROLLOUT, Outcome.TIME_LIMIT),
        ({"labels": {5: Outcome.SUCCESS}, "imitate_unlabelled": True}, Source.DEMONSTRATION, Outcome.UNLABELLED),
    ],
)
def test_labels_are_never_guessed(layout, arm, settings, source, outcome):
    info = plan(recording(), layout, arm, ImportSettings(name="set", **settings), task="pick_up").info
    assert (info.source, info.outcome) == (source, outcome)
    assert re.fullmatch(r"set-[0-9a-f]{16}-00000000", info.episode_id)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.0, 0.0, 1.0], Outcome.SUCCESS),
        ([False, False], Outcome.FAILURE),
        ([-1.0, -0.5], Outcome.FAILURE),
        ([float("nan"), None], Outcome.UNLABELLED),
        ([float("nan"), 0.0], Outcome.FAILURE),
        (["time_limit", "time_limit"], Outcome.TIME_LIMIT),
        ([], Outcome.UNLABELLED),
    ],
)
def test_columns_as_labels(values, outcome):
    assert outcome_of_column(values) is outcome


@pytest.mark.parametrize("values", [["success", "failure"], ["maybe"]])
def test_columns_that_mean_nothing(values):
    with pytest.raises(ValueError, match="label"):
        outcome_of_column(values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"0": true, "1": false, "2": null, "3": "truncated"}'),
        ("a.csv", "episode, success\n0,true\n1,0\n2,\n3,truncated\n"),
        ("b.csv", "who,episode,outcome\nme,0,success\nme,1,failure\nme,2,unlabelled\nme,3,truncated\n"),
    ],
)
def test_label_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    wanted = [Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNLABELLED, Outcome.TRUNCATED]
    assert read_labels(tmp_path / name) == dict(enumerate(wanted))


@pytest.mark.parametrize(
    ("name", "text", "explanation"),
    [
        ("a.json", "[true]", "no JSON object"),
        ("a.json", '{"0": true, "0": false}', "episode 0 has two different labels"),
        ("a.csv", "index,success\n0,1\n", "it needs episode"),
        ("a.csv", "episode,success\n0,perhaps\n", "line 2: 'perhaps' is no label"),
        ("a.csv", "episode,success\nx,1\n", "line 2"),
    ],
)
def test_label_files_that_are_wrong(tmp_path, name, text, explanation):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=explanation):
        read_labels(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path / "missing.csv")
