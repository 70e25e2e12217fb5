"""A LeRobot policy in its trial: the process reads the frozen backbone from the host's copy, and has no store."""

import pytest
import torch

from lwd.data.policies import put_base
from lwd.data.store import DirectoryStore
from lwd.errors import CheckpointError
from lwd.fleet.policy_trial import ProcessTrial
from lwd.models.checkpoint import base_bytes, policy_bytes

from . import tiny_vla
from .tiny_vla import EMBODIMENT


def test_a_smolvla_without_its_backbone_passes_its_trial_and_a_bad_one_does_not(tmp_path):
    policy = tiny_vla.tiny_vla("smolvla", tmp_path / "vlm")
    store = DirectoryStore(tmp_path / "store")
    base = put_base(store, base_bytes(policy))
    trial = ProcessTrial(store, tmp_path / "bases", [EMBODIMENT, EMBODIMENT])
    try:
        trial.try_policy(policy_bytes(policy, base=base))
        assert (tmp_path / "bases" / f"{base}.safetensors").exists()
        trial.try_policy(policy_bytes(policy))
        with torch.no_grad():
            for parameter in policy._expert_parameters():
                parameter.fill_(3e38)
        with pytest.raises(CheckpointError, match=r"not finite|NaN|inf"):
            trial.try_policy(policy_bytes(policy, base=base))
        policy.network.config.num_steps = 10**9
        with pytest.raises(CheckpointError, match="num_steps is 1000000000"):
            trial.try_policy(policy_bytes(policy, base=base))
    finally:
        trial.close()
