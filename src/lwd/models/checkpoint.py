"""Networks <-> safetensors: one file carries everything that acting or valuing needs.

The metadata holds the embodiment, the configuration and the normalisation statistics; a policy also carries the
embeddings of the instructions it knows. No pickle is ever read.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lwd.errors import CheckpointError
from lwd.models.advantage import AdvantagePolicy
from lwd.models.best_of_n import BestOfN
from lwd.models.critic import CriticConfig, PretrainedCriticConfig, ValueCritic
from lwd.models.flow_policy import FlowPolicy
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.lerobot import files
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.models.normalization import StateStatistics
from lwd.models.protocol import Policy
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment, TokenSpec

FORMAT = "lwd-1"
_INSTRUCTIONS = "instruction_embeddings"


PolicyNetwork = FlowPolicy | BestOfN | AdvantagePolicy
"""What a policy file can hold."""


def policy_bytes(policy: PolicyNetwork, *, base: str | None = None) -> bytes:
    """Serialise a policy with its configuration, statistics and known instructions.

    Args:
        base: SHA-256 of the `base_bytes` of a LeRobot policy, whose frozen backbone is then left out.
    """
    known, extra = _known(policy.instructions)
    metadata: dict[str, Any] = {"instructions": known}
    if isinstance(policy, LeRobotVLA):
        metadata["lerobot"] = files.described(policy)
        tensors = files.tensors_of(policy)
        if base is not None:
            metadata["base"] = base
            tensors = {name: tensor for name, tensor in tensors.items() if name not in policy.frozen_names}
        return _network_bytes("policy", policy.embodiment, tensors | extra, metadata)
    if isinstance(policy, AdvantagePolicy):
        metadata["guidance"] = policy.guidance
    elif isinstance(policy, BestOfN):
        metadata["samples"] = policy.samples
        metadata["critic"] = {"config": asdict(policy.critic.config), "horizon": policy.horizon}
    flow = policy.policy if isinstance(policy, AdvantagePolicy | BestOfN) else policy
    if not isinstance(flow, SmallVLA):
        raise CheckpointError(
            f"{type(policy).__name__} around {type(flow).__name__} cannot be written to a file: use another method"
        )
    metadata["config"] = asdict(flow.config)
    return _network_bytes("policy", policy.embodiment, policy.state_dict() | extra, metadata)


def base_bytes(policy: LeRobotVLA) -> bytes:
    """Serialise the frozen backbone of a LeRobot policy: what all its copies and versions have in common."""
    tensors = {name: tensor for name, tensor in files.tensors_of(policy).items() if name in policy.frozen_names}
    return _network_bytes("base", policy.embodiment, tensors, {})


class PolicyReader:
    """Loads policy files, also those without their frozen backbone, which is read once and shared by all of them."""

    def __init__(self, fetch_base: Callable[[str], bytes]) -> None:
        """
        Args:
            fetch_base: returns the `base_bytes` with a SHA-256.
        """
        self._fetch_base = fetch_base
        self._alike: str | None = None
        self._first: LeRobotVLA | None = None

    def __call__(self, data: bytes) -> PolicyNetwork:
        """Load a policy, on the CPU, ready to act.

        Raises:
            CheckpointError: if the file is damaged or no policy.
            StoreError: if its backbone cannot be had.
        """
        metadata, tensors = _read(data, "policy")
        if "base" not in metadata:
            return load_policy(data)
        instructions = _instructions(metadata, tensors)
        # All that is not the expert's: with the same the network is built already.
        processors = sorted((name, tensor.tolist()) for name, tensor in tensors.items() if files.is_processor(name))
        alike = json.dumps([metadata["base"], metadata["lerobot"], metadata["embodiment"], processors])
        if self._first is not None and alike == self._alike:
            policy = deepcopy(self._first)
            policy.instructions = instructions
            policy.load_learned_state({name: t for name, t in tensors.items() if not files.is_processor(name)})
            return policy.eval()
        _, shared = _read(self._fetch_base(metadata["base"]), "base")
        statistics = _statistics(tensors, "state_normalizer")
        embodiment = _embodiment(metadata["embodiment"])
        whole = files.rebuilt(metadata["lerobot"], shared | tensors, embodiment, statistics, instructions)
        self._first, self._alike = whole, alike
        return whole.eval()


def value_bytes(critic: ValueCritic) -> bytes:
    """Serialise a value/critic network."""
    horizon = critic.pooling.position.shape[0]
    metadata: dict[str, Any] = {"config": asdict(critic.config), "horizon": horizon}
    extra: dict[str, torch.Tensor] = {}
    if critic.instructions is not None:
        metadata["instructions"], extra = _known(critic.instructions)
    return _network_bytes("value", critic.embodiment, critic.state_dict() | extra, metadata)


def load_policy(source: Path | str | bytes) -> PolicyNetwork:
    """Load a policy from a file or from its bytes, on the CPU, ready to act.

    Raises:
        CheckpointError: if the file is missing, damaged or no policy.
    """
    metadata, tensors = _read(source, "policy")
    if "base" in metadata:
        raise CheckpointError("this policy file holds no backbone: load it with a PolicyReader, or use a checkpoint's")
    embodiment = _embodiment(metadata["embodiment"])
    instructions = _instructions(metadata, tensors)
    if "lerobot" in metadata:
        statistics = _statistics(tensors, "state_normalizer")
        return files.rebuilt(metadata["lerobot"], tensors, embodiment, statistics, instructions)
    wrapped = "guidance" in metadata or "samples" in metadata
    flow = SmallVLA(
        embodiment,
        VLAConfig(**metadata["config"]),
        _statistics(tensors, f"{'policy.' if wrapped else ''}backbone.normalizer"),
        instructions,
    )
    policy: PolicyNetwork = flow
    if "guidance" in metadata:
        policy = AdvantagePolicy(flow, metadata["guidance"])
    elif "samples" in metadata:
        critic = _critic(metadata["embodiment"], metadata["critic"], tensors, "critic.", instructions=instructions)
        policy = BestOfN(flow, critic, metadata["samples"])
    policy.load_state_dict(tensors)
    return policy.eval()


def load_vla(source: Path | str | bytes) -> FlowPolicy:
    """Load the flow policy of a policy file, whatever is around it.

    Raises:
        CheckpointError: if the file is missing, damaged or no policy.
    """
    policy = load_policy(source)
    return policy.policy if isinstance(policy, BestOfN | AdvantagePolicy) else policy


def load_value(source: Path | str | bytes) -> ValueCritic:
    """Load a value/critic network from a file or from its bytes, on the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged or no value network.
    """
    metadata, tensors = _read(source, "value")
    instructions = _instructions(metadata, tensors) if _INSTRUCTIONS in tensors else None
    critic = _critic(metadata["embodiment"], metadata, tensors, instructions=instructions)
    critic.load_state_dict(tensors)
    return critic.eval()


def require_embodiment(network: Policy | ValueCritic, embodiment: Embodiment) -> None:
    """Check that a loaded network fits a robot.

    Raises:
        CheckpointError: naming the first field that differs.
    """
    trained, wanted = asdict(network.embodiment), asdict(embodiment)
    for field, value in wanted.items():
        if json.dumps(trained[field]) != json.dumps(value):
            raise CheckpointError(
                f"the checkpoint was trained for {field} = {trained[field]!r}, the robot has {value!r}: "
                "use a checkpoint of this embodiment"
            )


def sha256_of(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def _network_bytes(
    kind: str, embodiment: Embodiment, tensors: Mapping[str, torch.Tensor], metadata: dict[str, Any]
) -> bytes:
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    description = {"format": FORMAT, "kind": kind, "embodiment": asdict(embodiment), **metadata}
    # One key only: safetensors writes several in random order, and equal networks must be equal bytes.
    return save(here, metadata={"lwd": json.dumps(description)})


def _read(source: Path | str | bytes, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    name = "the checkpoint" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {name}: {error.strerror}; check the path") from error
    try:
        tensors = load(data)
        header_size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_size]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{name} is not an intact safetensors file ({error}); copy it again") from error
    metadata = json.loads(header.get("lwd", "{}"))
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{name} has format {metadata.get('format')!r}; this version reads {FORMAT!r}")
    if metadata["kind"] != kind:
        raise CheckpointError(f"{name} holds a {metadata['kind']} network; a {kind} network is needed")
    return metadata, tensors


def _critic(
    embodiment: dict[str, Any],
    metadata: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    prefix: str = "",
    *,
    instructions: InstructionEncoder | None = None,
) -> ValueCritic:
    """A critic of the described form, its weights still to be loaded."""
    config = metadata["config"]
    return ValueCritic(
        _embodiment(embodiment),
        (PretrainedCriticConfig if "language" in config else CriticConfig)(**config),
        _statistics(tensors, f"{prefix}encoder.normalizer"),
        metadata["horizon"],
        instructions=instructions,
        pretrained_weights=False,
    )


def _known(instructions: InstructionEncoder) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The known instructions, and their embeddings as the tensor of a file."""
    known = instructions.known
    embeddings = np.stack(list(known.values())) if known else np.zeros((0, EMBEDDING_SIZE), np.float32)
    return list(known), {_INSTRUCTIONS: torch.from_numpy(embeddings)}


def _instructions(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> InstructionEncoder:
    return InstructionEncoder(dict(zip(metadata["instructions"], tensors.pop(_INSTRUCTIONS).numpy(), strict=True)))


def _embodiment(description: dict[str, Any]) -> Embodiment:
    return Embodiment(
        **{
            **description,
            "state_tokens": tuple(TokenSpec(**token) for token in description["state_tokens"]),
            "action_low": tuple(description["action_low"]),
            "action_high": tuple(description["action_high"]),
            "cameras": {name: tuple(size) for name, size in description["cameras"].items()},
        }
    )


def _statistics(tensors: dict[str, torch.Tensor], prefix: str) -> StateStatistics:
    return StateStatistics(
        mean=tuple(tensors[f"{prefix}.state_mean"].tolist()),
        std=tuple(tensors[f"{prefix}.state_std"].tolist()),
    )
