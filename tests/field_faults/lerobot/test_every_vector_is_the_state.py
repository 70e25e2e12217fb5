"""D33: every vector below `observation.` became the state, and nobody heard of what was left out."""

import json

import numpy as np

from lwd.recipes.run_directory import RunDirectory

from .recordings import smooth, write
from .test_columns_by_count import dispatched, episodes


def columns(**more: np.ndarray) -> dict[str, list[np.ndarray]]:
    last = (np.arange(80) == 79)[:, None]
    found = {
        "observation.state": smooth(0), "observation.effort": smooth(1, size=2), "action": smooth(0),
        "next.reward": last.astype(np.float32), "next.done": last, "phase": np.zeros((80, 1), np.float32), **more,
    }  # fmt: skip
    return {key: [values] for key, values in found.items()}


def test_observation_state_alone_is_the_state_and_the_rest_is_listed(tmp_path, capsys):
    write(tmp_path / "cups", columns(), names={"observation.effort": ["a", "b"]})
    words = ("data", "import", "--lerobot", tmp_path / "cups", "--run", tmp_path / "run")
    left = json.loads(dispatched(capsys, *words, "--dry-run", "--json"))["left_out"]
    assert list(left) == ["observation.effort", "next.reward", "next.done", "phase"]
    assert (
        "2 numbers (a, b) that are not chosen: --state observation.state observation.effort"
        in left["observation.effort"]
    )
    assert "--label-column" in left["next.reward"]
    labelled = json.loads(dispatched(capsys, *words, "--label-column", "next.reward", "--dry-run", "--json"))
    assert list(labelled["left_out"]) == ["observation.effort", "next.done", "phase"]
    assert "left out: phase: it is float32 of shape [1]" in dispatched(capsys, *words, "--dry-run")
    dispatched(capsys, *words)
    assert [token.name for token in RunDirectory(tmp_path / "run").embodiment().state_tokens] == ["state"]


def test_a_run_of_all_vectors_goes_on(tmp_path, capsys):
    """Runs from before had every vector, without names."""
    write(tmp_path / "cups", columns(), names={"observation.effort": ["a", "b"], "action": ["x", "y", "z"]})
    (tmp_path / "run").mkdir()
    robot = {
        "name": "toy_arm", "control_hz": 20, "action_low": [-100] * 3, "action_high": [100] * 3,
        "state_tokens": [{"name": "effort", "size": 2}, {"name": "state", "size": 3}],
    }  # fmt: skip
    (tmp_path / "run" / "embodiment.json").write_text(json.dumps(robot))
    dispatched(capsys, "data", "import", "--lerobot", tmp_path / "cups", "--run", tmp_path / "run")
    (episode,) = episodes(tmp_path / "run")
    np.testing.assert_array_equal(episode.states_TS, np.concatenate([smooth(1, size=2), smooth(0)], axis=1))


def test_without_it_several_vectors_are_listed(tmp_path, capsys):
    found = columns()
    found["observation.joints"] = found.pop("observation.state")
    write(tmp_path / "cups", found)
    words = ("data", "import", "--lerobot", tmp_path / "cups", "--run", tmp_path / "run")
    said = dispatched(capsys, *words, refused=True)
    assert "has no observation.state but observation.effort, observation.joints: name the state's with --state" in said
    dispatched(capsys, *words, "--state", "observation.joints")
    dispatched(capsys, *words)
