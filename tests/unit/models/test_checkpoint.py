"""Networks written to safetensors and read back."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lwd.errors import CheckpointError
from lwd.models.checkpoint import load_policy, load_value, policy_bytes, require_embodiment, value_bytes
from lwd.types import Observation


def test_a_loaded_policy_acts_identically_and_knows_its_instructions(policy, embodiment, tmp_path):
    policy.instructions.add(["open the drawer"])
    path = tmp_path / "policy.safetensors"
    path.write_bytes(policy_bytes(policy))
    loaded = load_policy(path)
    seen = [Observation(state=np.linspace(-1, 1, 7, dtype=np.float32))]
    noise = np.ones((1, 3, 2), np.float32)
    np.testing.assert_array_equal(
        loaded.act(seen, ["open the drawer"], noise_BHA=noise),
        policy.act(seen, ["open the drawer"], noise_BHA=noise),
    )
    assert list(loaded.instructions.known) == ["open the drawer"]
    assert loaded.instructions._model is None  # the sentence encoder was not needed
    assert loaded.normalizer.state_std.tolist() == pytest.approx([1.5] * 7)


def test_a_loaded_value_network_gives_the_same_distribution(critic, make_batch):
    loaded = load_value(value_bytes(critic))
    observation = make_batch(4).observation
    assert_close(loaded.value_probs(observation), critic.value_probs(observation))


def test_a_damaged_a_missing_and_a_wrong_file_are_refused(policy, critic, tmp_path):
    data = policy_bytes(policy)
    with pytest.raises(CheckpointError, match="intact"):
        load_policy(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        load_policy(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match="a policy network is needed"):
        load_policy(value_bytes(critic))


def test_another_action_space_is_named(policy, embodiment):
    require_embodiment(policy, embodiment)
    other = dataclasses.replace(embodiment, action_low=(-1.0,), action_high=(1.0,))
    with pytest.raises(CheckpointError, match="action_low"):
        require_embodiment(policy, other)


def test_parameters_survive_exactly(policy):
    loaded = load_policy(policy_bytes(policy))
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_names_count_where_both_sides_have_them(policy, embodiment):
    """A checkpoint from before there were names stays usable."""
    named = dataclasses.replace(embodiment, action_names=tuple(f"joint {i}" for i in range(embodiment.action_size)))
    require_embodiment(policy, named)
    require_embodiment(load_policy(policy_bytes(policy)), dataclasses.replace(named, recorded_cameras={"top": (4, 4)}))
    trained = load_policy(policy_bytes(policy))
    trained.embodiment = named
    require_embodiment(trained, embodiment)
    turned = dataclasses.replace(named, action_names=tuple(reversed(named.action_names)))
    with pytest.raises(CheckpointError, match=r"action_names = \['joint 0'.*the robot has \['joint [1-9]"):
        require_embodiment(trained, turned)
