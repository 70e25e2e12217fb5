"""--fit-to-data with relative actions took statistics of the absolute ones: targets of -43 instead of about 1."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.compute_stats import compute_relative_action_stats
from tests.lerobot.tiny_vla import INSTRUCTIONS, instructions, small_networks, tiny_vla
from tests.unit.data.episodes import episode, frame

from lwd.data.arena import ReplayArena
from lwd.errors import ConfigError
from lwd.models.lerobot.files import save_lerobot
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.recipes.pretrained import PretrainedPolicy
from lwd.types import Embodiment, Episode, TokenSpec

ARM = Embodiment(
    name="degrees",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="joints", size=4),),
    action_low=(-180.0,) * 4,
    action_high=(180.0,) * 4,
    action_names=("shoulder.pos", "elbow.pos", "wrist.pos", "gripper.pos"),
    cameras={"front": (24, 32), "wrist": (24, 32)},
)
MIDDLE = np.array((-43.0, -21.0, 31.0, 60.0), np.float32)


def recorded(number: int, constant: bool = False) -> Episode:
    """An arm that creeps around MIDDLE and whose actions lead it by a degree or so."""
    rng = np.random.default_rng(number)
    states = MIDDLE + np.cumsum(rng.normal(0, 0.3, (21, 4)), axis=0)
    if constant:
        states[:, 1], states[:, 2] = 0, 31
    made = episode(number, embodiment=ARM.name, instruction=INSTRUCTIONS[0])
    return replace(
        made,
        states_TS=states.astype(np.float32),
        actions_TA=(states[1:] + rng.normal(0, 1, (20, 4))).astype(np.float32),
        controllers_T=np.zeros(20, np.uint8),
        images={camera: (frame(24, 32),) * 21 for camera in ARM.cameras},
    )


def fitted(
    kind: str,
    directory: Path,
    *,
    relative: bool = True,
    arm: Embodiment = ARM,
    constant: bool = False,
    **config: object,
) -> tuple[LeRobotVLA, ReplayArena]:
    """What `lwd sft --pretrained ... --fit-to-data` starts from."""
    save_lerobot(tiny_vla(kind, directory / "tokens", relative=relative), directory / "saved")
    path = directory / "saved" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    arena = ReplayArena(arm, horizon=5, gamma=0.99, embed=instructions(), initial_rows=8)
    arena.add(recorded(number, constant) for number in range(8))
    with small_networks():
        return PretrainedPolicy(source=str(directory / "saved"), fit_to_data=True).load(arena, instructions()), arena


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_targets_of_relative_actions_are_about_one(kind: str, tmp_path: Path) -> None:
    policy, arena = fitted(kind, tmp_path)
    starts = np.flatnonzero(arena.view.segment_end_R - np.arange(len(arena.view.states_RS)) >= 5)
    batch = arena.gather(starts)
    targets = policy.flow_chunk(batch.observation, batch.action_chunk_BHA)[..., :4]
    assert targets.mean(dim=(0, 1)).abs().max() < 0.5
    assert ((targets.std(dim=(0, 1)) > 0.2) & (targets.std(dim=(0, 1)) < 1.5)).all()
    assert policy.processors._relative._build_mask(4) == [True, True, True, False]
    torch.testing.assert_close(
        policy.processors.physical_action(targets, batch.observation.state_BS),
        batch.action_chunk_BHA,
        rtol=0,
        atol=1e-4,
    )


def test_the_statistics_are_lerobots_own(tmp_path: Path) -> None:
    policy, _ = fitted("pi0", tmp_path)
    episodes = [recorded(number) for number in range(8)]
    columns = {
        "action": np.concatenate([made.actions_TA for made in episodes]),
        "observation.state": np.concatenate([made.states_TS[:-1] for made in episodes]),
        "episode_index": np.repeat(np.arange(8), 20),
    }
    names = {"action": {"shape": (4,), "names": list(ARM.action_names)}}
    # LeRobot leaves out the chunks that an episode's end cuts, which are learned here as far as they go.
    theirs = compute_relative_action_stats(columns, names, chunk_size=5, exclude_joints=["gripper"])
    ours = policy.processors._normalize.stats["action"]
    np.testing.assert_allclose(ours["mean"][:3], theirs["mean"][:3], atol=0.1)
    np.testing.assert_allclose(ours["std"][:3], theirs["std"][:3], rtol=0.1)
    np.testing.assert_allclose(ours["mean"][3], columns["action"][:, 3].mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["pi0", "pi05", "smolvla"])
def test_a_constant_entry_that_moves_a_little_stays_a_small_number(kind: str, tmp_path: Path) -> None:
    policy, _ = fitted(kind, tmp_path, relative=False, constant=True)
    state = torch.from_numpy(np.array([MIDDLE]))
    state[:, 1], state[:, 2] = 0.05, 31.05
    normalized = policy.processors._normalize._apply_transform(
        state,
        "observation.state",
        next(f.type for k, f in policy.network.config.input_features.items() if "state" in k),
    )
    assert normalized[0, 1].abs() <= 5.01
    assert normalized[0, 2].abs() <= 5.01


def test_arms_without_names_are_refused_where_names_decide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keeps gripper absolute.*have no names"):
        fitted("pi0", tmp_path, arm=replace(ARM, action_names=()))


def test_a_state_too_short_for_relative_actions_is_refused(tmp_path: Path) -> None:
    save_lerobot(tiny_vla("pi0", tmp_path / "tokens", relative=True), tmp_path / "saved")
    short = replace(ARM, state_tokens=(TokenSpec(name="joints", size=3),))
    arena = ReplayArena(short, horizon=5, gamma=0.99, embed=instructions(), initial_rows=8)
    arena.add([replace(recorded(0), states_TS=recorded(0).states_TS[:, :3])])
    with small_networks(), pytest.raises(ConfigError, match="4 actions and a state of 3"):
        PretrainedPolicy(source=str(tmp_path / "saved"), fit_to_data=True).load(arena, instructions())


def test_a_configuration_that_was_set_to_relative_afterwards_counts(tmp_path: Path) -> None:
    policy, _ = fitted("pi05", tmp_path, relative=False, use_relative_actions=True, relative_exclude_joints=["wrist"])
    assert policy.processors._relative._build_mask(4) == [True, True, False, True]
