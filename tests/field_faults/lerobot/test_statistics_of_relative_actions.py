"""`--fit-to-data` took statistics of absolute actions for a policy that sees relative ones (row 4); types (row 31)."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lwd.data.arena import ReplayArena
from lwd.data.lerobot.importing import encoded
from lwd.errors import CheckpointError, ConfigError
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.models.lerobot.files import chunk_size_of, load_lerobot, save_lerobot
from lwd.models.normalization import StateStatistics
from lwd.recipes.pretrained import PretrainedPolicy, _statistics, statistics_of
from lwd.types import Controller, Episode, EpisodeInfo, Outcome, Source

from ...lerobot.tiny_vla import EMBODIMENT, HORIZON, instructions, small_networks, tiny_vla

NAMED = replace(EMBODIMENT, action_names=("lift.pos", "turn.pos", "gripper.pos"))


def replay() -> ReplayArena:
    """Two arms' worth of joints far from zero, whose commands are a little ahead of them; one entry never moves."""
    rng = np.random.default_rng(0)
    arena = ReplayArena(NAMED, horizon=HORIZON, gamma=0.99, embed=lambda _: np.ones(EMBEDDING_SIZE, np.float32))
    for index in range(2):
        steps = 80
        states = np.cumsum(rng.normal(0, 0.05, (steps + 1, 4)), axis=0).astype(np.float32) + 40 * (index - 0.5)
        states[:, 3] = 0
        actions = states[:-1, :3] + rng.normal(0, 0.05, (steps, 3)).astype(np.float32)
        actions[:, 2] = rng.uniform(0, 3, steps)
        info = EpisodeInfo(
            episode_id=f"e{index}", robot_id="r", embodiment=NAMED.name, task="lift", instruction="open drawer",
            source=Source.DEMONSTRATION, outcome=Outcome.SUCCESS, policy_version=-1,
            sub_step_scores=(), control_hz=10.0, seed=0, world={}, started_at_s=0.0, software_version="test",
        )  # fmt: skip
        frames = (encoded(np.zeros((24, 32, 3), np.uint8), "png"),) * (steps + 1)
        human = np.full(steps, int(Controller.HUMAN), np.uint8)
        images = dict.fromkeys(NAMED.cameras, frames)
        arena.add([Episode(info=info, states_TS=states, actions_TA=actions, controllers_T=human, images=images)])
    return arena


@pytest.mark.parametrize("kind", ["pi05", "pi0"])
def test_targets_are_about_zero_with_unit_spread(kind, tmp_path):
    save_lerobot(tiny_vla(kind, tmp_path, relative=True), tmp_path / "saved")
    arena = replay()
    view = arena.view
    with small_networks():
        policy = PretrainedPolicy(source=str(tmp_path / "saved"), fit_to_data=True).load(arena, instructions())
    starts = np.flatnonzero(np.arange(len(view.states_RS)) + HORIZON <= np.asarray(view.segment_end_R))
    chunks = torch.tensor(np.stack([view.actions_RA[start : start + HORIZON] for start in starts]))
    seen = policy.processors.normalized_action(chunks, torch.tensor(np.asarray(view.states_RS)[starts]))
    assert policy.processors.relative_columns(NAMED) == (True, True, False)
    if kind == "pi05":
        assert ((seen.abs() <= 1).float().mean(dim=(0, 1)) > 0.95).all()
        assert (seen.std(dim=(0, 1)) > 0.2).all()
    else:
        assert (seen.mean(dim=(0, 1)).abs() < 0.1).all()
        assert ((seen.std(dim=(0, 1)) - 1).abs() < 0.1).all()


def test_an_entry_that_was_constant_stays_small_when_it_moves():
    statistics = _statistics(np.zeros((50, 1), np.float32))
    for low, high in (("min", "max"), ("q01", "q99"), ("q10", "q90")):
        assert 2 * 0.05 / (statistics[high] - statistics[low]).item() <= 51
    assert 0.05 / statistics["std"].item() <= 51


@pytest.mark.parametrize("kind", ["gaussian_actor", "act", "diffusion", None])
def test_types_without_an_adapter_are_named(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"type": kind, "no_such_setting": 1}))
    with pytest.raises(ConfigError, match=r"adapters for smolvla, pi05, pi0"):
        chunk_size_of(str(tmp_path))


def test_missing_processor_files_are_named(tmp_path):
    save_lerobot(tiny_vla("pi05", tmp_path), tmp_path / "saved")
    (tmp_path / "saved" / "policy_postprocessor.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no policy_postprocessor.json: make them"):
        load_lerobot(str(tmp_path / "saved"), EMBODIMENT, StateStatistics(mean=(0.0,) * 4, std=(1.0,) * 4))


def test_without_relative_columns_statistics_are_of_all_frames():
    arena = replay()
    found = statistics_of(arena, HORIZON)["action"]["mean"].numpy()
    np.testing.assert_allclose(found, np.asarray(arena.view.actions_RA).mean(axis=0, dtype=float), rtol=1e-3, atol=1e-3)
