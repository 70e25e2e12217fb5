"""A dot in a camera's name ended offline resume and the online stage with a load_state_dict traceback (row 23)."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.data.arena import ReplayArena
from lwd.data.episode_file import NAME_PATTERN, read_episode, write_episode
from lwd.fleet.embodiment import embodiment_json, parse_embodiment
from lwd.learner.state_file import load_state_bytes, state_bytes
from lwd.models.checkpoint import load_policy, load_value, policy_bytes, value_bytes
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.algorithms import continue_online
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import Control, run_offline, run_sft
from lwd.types import Controller, Embodiment, Episode, Source, TokenSpec

from ..tiny_run import RECIPE, commit, copy_of
from ..unit.data.episodes import episode, frame

NAMES = st.from_regex(NAME_PATTERN.removesuffix("$") + r"\Z")
ALIKE = ("pixels.front", "pixels.top", "pixels", "a.b", "a_b", "a-b", "type", "keys", "a..b", "a.")


def networks(cameras: tuple[str, ...], tokens: tuple[str, ...] = ("state",)) -> tuple[SmallVLA, ValueCritic]:
    arm = Embodiment(
        name="arm", control_hz=10.0, state_tokens=tuple(TokenSpec(name=name, size=2) for name in tokens),
        action_low=(-1.0,), action_high=(1.0,), cameras=dict.fromkeys(cameras, (8, 8)),
    )  # fmt: skip
    statistics = StateStatistics(mean=(0.0,) * arm.state_size, std=(1.0,) * arm.state_size)
    small = VLAConfig(horizon=2, token_width=4, context_size=8, expert_width=8, expert_depth=1, flow_steps=2)
    critic = CriticConfig(token_width=4, readout_size=8, action_width=4, pooling_heads=2, width=8, num_atoms=5)
    known = InstructionEncoder({"lift": np.ones(EMBEDDING_SIZE, np.float32)})
    return SmallVLA(arm, small, statistics, known), ValueCritic(arm, critic, statistics, 2)


def recorded(arm: Embodiment, number: int = 0, steps: int = 6) -> Episode:
    """A demonstration whose cameras all see something else."""
    made = episode(number, steps=steps, embodiment=arm.name, source=Source.DEMONSTRATION, policy_version=-1)
    return replace(
        made,
        info=replace(made.info, sub_step_scores=()),
        states_TS=np.random.default_rng(number).normal(size=(steps + 1, arm.state_size)).astype(np.float32),
        actions_TA=made.actions_TA[:, : arm.action_size],
        controllers_T=np.full(steps, Controller.HUMAN, np.uint8),
        images={
            camera: tuple(frame(8, 8, seed=100 * number + 10 * index + step) for step in range(steps + 1))
            for index, camera in enumerate(arm.cameras)
        },
    )


def same(first: object, second: object) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first == second


@pytest.mark.parametrize("cameras", [("pixels.front", "pixels.top"), ALIKE])
def test_a_stage_goes_on_from_its_state_file(cameras):
    torch.manual_seed(0)
    policy, critic = networks(cameras)

    def build() -> LWD:
        generator = torch.Generator().manual_seed(0)
        return LWD(deepcopy(policy), deepcopy(policy), deepcopy(critic), LWDConfig(temperature=0.1), generator)

    state = build().state()
    found = load_state_bytes(state_bytes(state))
    assert same(found, load_state_bytes(state_bytes(found)))
    resumed = build()
    resumed.load_state(found)
    assert same(load_state_bytes(state_bytes(resumed.state())), found)


@settings(max_examples=5, deadline=None)
@given(cameras=st.lists(NAMES, min_size=1, max_size=3, unique=True), token=NAMES)
@example(cameras=list(ALIKE), token="a.b")
def test_any_names_survive_policy_and_value_files(cameras, token):
    policy, critic = networks(tuple(cameras), (token, f"{token}."))
    for network, read in (
        (policy, load_policy(policy_bytes(policy))),
        (critic, load_value(value_bytes(critic))),
    ):
        assert read.embodiment == network.embodiment
        assert same(dict(network.state_dict()), dict(read.state_dict()))
        assert same(dict(network.state_dict()), load_state_bytes(state_bytes(dict(network.state_dict()))))


LEAVES = st.none() | st.integers() | st.text() | st.just(torch.ones(2))


@settings(max_examples=30, deadline=None)
@given(
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.text(), inner, min_size=1)).filter(
        lambda x: isinstance(x, dict)
    )
)
def test_any_key_survives_a_state_file(state):
    assert same(load_state_bytes(state_bytes(state)), state)


def test_equal_states_have_equal_bytes():
    state = {"policy": {"a/b": torch.ones(2)}, "update": 3}
    assert len({state_bytes(state) for _ in range(20)}) == 1


def test_state_files_of_earlier_versions_stay_readable():
    old = save({"policy/a.b": torch.ones(2)}, metadata={"scalars": json.dumps({"policy/~1": 3, "update": 4})})
    assert same(load_state_bytes(old), {"policy": {"a.b": torch.ones(2), "~1": 3}, "update": 4})


@settings(max_examples=5, deadline=None)
@given(cameras=st.lists(NAMES, min_size=1, max_size=3, unique=True), token=NAMES)
@example(cameras=list(ALIKE), token="a.b")
def test_any_names_survive_episode_file_arena_and_embodiment_file(cameras, token):
    arm = networks(tuple(cameras), (token,))[0].embodiment
    made = recorded(arm)
    read = read_episode(write_episode(made))
    assert read.images == made.images
    arena = ReplayArena(arm, horizon=2, gamma=0.99, embed=lambda _: np.ones(EMBEDDING_SIZE), initial_rows=8)
    arena.add([read])
    seen = arena.gather(np.array([0])).observation.images
    assert seen.keys() == arm.cameras.keys()
    first = [seen[camera].numpy().tobytes() for camera in cameras]
    assert len(set(first)) == len(cameras)  # each is its own
    assert parse_embodiment(embodiment_json(arm), "embodiment.json") == arm


@pytest.mark.faults  # ten seconds
def test_a_run_with_dots_in_its_cameras_names_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """SFT, an offline stage that is stopped twice, and the online stage from it."""
    arm = networks(("pixels.front", "pixels.top"))[0].embodiment
    run = RunDirectory(tmp_path / "run")
    run.store()
    run.embodiment_path.write_bytes(embodiment_json(arm))
    commit(run, [recorded(arm, number) for number in range(4)])
    run_sft(run, replace(RECIPE.sft, updates=1, batch_size=4), seed=0)
    offline = replace(RECIPE.offline, updates=3, batch_size=4, n_step_long=1)
    whole, cut = (copy_of(run, tmp_path / name) for name in ("whole", "cut"))
    expected = run_offline(whole, offline, seed=0)
    for _ in range(2):
        seen: list[int] = []
        control = Control(
            watch=lambda result, _, seen=seen: seen.append(result.update), stop=lambda seen=seen: bool(seen)
        )
        run_offline(cut, offline, seed=0, control=control)
    found = run_offline(cut, offline, seed=0)
    assert found.progress.finished
    assert found.sha256 == expected.sha256
    online = continue_online(cut, RECIPE.online, seed=0, device="cpu")
    for name, tensor in found.state()["averaged_policy"].items():
        assert torch.equal(online.state()["policy"][name], tensor), name
