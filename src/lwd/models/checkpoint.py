"""Networks <-> safetensors: one file carries everything that acting or valuing needs.

The metadata holds the embodiment, the configuration and the normalisation statistics; a policy also carries the
embeddings of the instructions it knows. No pickle is ever read.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from lwd.errors import CheckpointError
from lwd.matching import first_conflict
from lwd.models.advantage import AdvantagePolicy
from lwd.models.best_of_n import BestOfN
from lwd.models.critic import ValueCritic
from lwd.models.file_settings import FORMAT, NetworkFile, read_settings
from lwd.models.flow_policy import FlowPolicy
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.lerobot import files
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.models.normalization import StateStatistics
from lwd.models.protocol import Policy
from lwd.models.tensor_file import read_header
from lwd.models.vla import SmallVLA
from lwd.types import Embodiment

_INSTRUCTIONS = "instruction_embeddings"
_Network = TypeVar("_Network", bound=nn.Module)


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
        settings, tensors = _read(data, "policy")
        if settings.base is None:
            return load_policy(data)
        if settings.lerobot is None:
            raise CheckpointError("this policy file names a base and is no LeRobot policy: write it again")
        instructions = _instructions(settings, tensors)
        # All that is not the expert's: with the same the network is built already.
        processors = sorted((name, tensor.tolist()) for name, tensor in tensors.items() if files.is_processor(name))
        alike = json.dumps([settings.base, settings.lerobot, settings.embodiment.model_dump(), processors])
        if self._first is not None and alike == self._alike:
            policy = deepcopy(self._first)
            policy.instructions = instructions
            policy.load_learned_state({name: t for name, t in tensors.items() if not files.is_processor(name)})
            return policy.eval()
        _, shared = _read(self._fetch_base(settings.base), "base")
        statistics = _statistics(settings, tensors, "state_normalizer")
        embodiment = settings.embodiment.embodiment
        whole = files.rebuilt(settings.lerobot, shared | tensors, embodiment, statistics, instructions)
        _require_limits(whole)
        self._first, self._alike = whole, alike
        return whole.eval()


def base_of(data: bytes) -> str | None:
    """Return the SHA-256 of the frozen backbone that a policy file leaves out, None if it is whole.

    Raises:
        CheckpointError: if the file is damaged or no policy.
    """
    header = read_header(data, "the checkpoint")
    return read_settings(header.metadata.get("lwd", "{}"), "policy", "the checkpoint").base


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
    settings, tensors = _read(source, "policy")
    if settings.base is not None:
        raise CheckpointError("this policy file holds no backbone: load it with a PolicyReader, or use a checkpoint's")
    instructions = _instructions(settings, tensors)
    if settings.lerobot is not None:
        statistics = _statistics(settings, tensors, "state_normalizer")
        policy: PolicyNetwork = files.rebuilt(
            settings.lerobot, tensors, settings.embodiment.embodiment, statistics, instructions
        )
    else:
        wrapped = settings.guidance is not None or settings.samples is not None
        statistics = _statistics(settings, tensors, f"{'policy.' if wrapped else ''}backbone.normalizer")
        policy = _filled(lambda: _policy(settings, tensors, statistics, instructions), tensors)
    _require_limits(policy)
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
    settings, tensors = _read(source, "value")
    instructions = _instructions(settings, tensors) if _INSTRUCTIONS in tensors else None
    return _filled(lambda: _critic(settings, tensors, instructions=instructions), tensors).eval()


def require_embodiment(network: Policy | ValueCritic, embodiment: Embodiment) -> None:
    """Check that a loaded network fits a robot.

    Names of entries count where both have them, in their order: a network reads its numbers by place.

    Raises:
        CheckpointError: naming the first field that differs.
    """
    if (wrong := first_conflict(network.embodiment, embodiment)) is not None:
        field, trained, has = wrong
        raise CheckpointError(
            f"the checkpoint was trained for {field} = {trained!r}, the robot has {has!r}: use a checkpoint of this "
            "embodiment"
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


def _read(source: Path | str | bytes, kind: str) -> tuple[NetworkFile, dict[str, torch.Tensor]]:
    name = "the checkpoint" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {name}: {error.strerror}; check the path") from error
    header = read_header(data, name)
    settings = read_settings(header.metadata.get("lwd", "{}"), kind, name)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{name} is not an intact safetensors file ({error}); copy it again") from error
    for tensor_name, tensor in tensors.items():
        # Extremes instead of `isfinite`: NaN and infinity reach them, and they need no memory.
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, torch.aminmax(tensor))):
            raise CheckpointError(f"{name}: tensor {tensor_name} is not finite: publish an earlier version again")
    return settings, tensors


def _filled(build: Callable[[], _Network], tensors: Mapping[str, torch.Tensor]) -> _Network:
    """Build a network, whose form is compared with the file's before it gets any memory, and load its tensors.

    Raises:
        CheckpointError: naming the first tensor that does not fit.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in build().state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"the checkpoint's settings ask for tensor {name} of shape {_words(wanted.get(name))}, it holds "
                f"{_words(found.get(name))}: write the file again"
            )
    network = build()
    network.load_state_dict(tensors)
    return network


def _words(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(list(shape))


def _policy(
    settings: NetworkFile,
    tensors: dict[str, torch.Tensor],
    statistics: StateStatistics,
    instructions: InstructionEncoder,
) -> SmallVLA | BestOfN | AdvantagePolicy:
    """A policy of the described form, its weights still to be loaded."""
    flow = SmallVLA(settings.embodiment.embodiment, settings.vla, statistics, instructions)
    if settings.guidance is not None:
        return AdvantagePolicy(flow, settings.guidance)
    if settings.samples is not None:
        return BestOfN(flow, _critic(settings, tensors, "critic.", instructions=instructions), settings.samples)
    return flow


def _critic(
    settings: NetworkFile,
    tensors: dict[str, torch.Tensor],
    prefix: str = "",
    *,
    instructions: InstructionEncoder | None = None,
) -> ValueCritic:
    """A critic of the described form, its weights still to be loaded."""
    config, horizon = settings.critic_config
    return ValueCritic(
        settings.embodiment.embodiment,
        config,
        _statistics(settings, tensors, f"{prefix}encoder.normalizer"),
        horizon,
        instructions=instructions,
        pretrained_weights=False,
    )


def _require_limits(policy: PolicyNetwork) -> None:
    """Refuse weights that bring actions to other limits than the embodiment has.

    Raises:
        CheckpointError: saying so.
    """
    low, high = (torch.tensor(limits) for limits in (policy.embodiment.action_low, policy.embodiment.action_high))
    center, scale = policy.normalizer.action_center, policy.normalizer.action_scale
    if not (torch.allclose(center, (high + low) / 2) and torch.allclose(scale, (high - low) / 2)):
        raise CheckpointError(
            f"the checkpoint's action_center {center.tolist()} and action_scale {scale.tolist()} are not those of its "
            "embodiment's limits: write the file again"
        )


def _known(instructions: InstructionEncoder) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The known instructions, and their embeddings as the tensor of a file."""
    known = instructions.known
    embeddings = np.stack(list(known.values())) if known else np.zeros((0, EMBEDDING_SIZE), np.float32)
    return list(known), {_INSTRUCTIONS: torch.from_numpy(embeddings)}


def _instructions(settings: NetworkFile, tensors: dict[str, torch.Tensor]) -> InstructionEncoder:
    known = settings.instructions or ()
    embeddings = tensors.pop(_INSTRUCTIONS, torch.zeros(0, EMBEDDING_SIZE))
    if embeddings.shape != (len(known), EMBEDDING_SIZE):
        raise CheckpointError(
            f"the checkpoint has {len(known)} instructions and embeddings of shape {list(embeddings.shape)}: "
            "write the file again"
        )
    return InstructionEncoder(dict(zip(known, embeddings.float().numpy(), strict=True)))


def _statistics(settings: NetworkFile, tensors: dict[str, torch.Tensor], prefix: str) -> StateStatistics:
    size = settings.embodiment.embodiment.state_size
    mean, std = (tensors.get(f"{prefix}.state_{part}") for part in ("mean", "std"))
    if mean is None or std is None or mean.shape != (size,) or std.shape != (size,):
        raise CheckpointError(f"the checkpoint lacks {prefix}.state_mean and state_std of {size} entries each")
    if not bool((std > 0).all()):
        raise CheckpointError(
            f"the checkpoint's {prefix}.state_std has an entry of {float(std.min())}: it divides by it"
        )
    return StateStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
