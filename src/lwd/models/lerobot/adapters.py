"""Low-rank adapters (arXiv 2106.09685, the library peft): a LeRobot VLA learns whole at the cost of a few weights.

The network without its adapters is the reference: policy, reference and averages are one network and some adapters.
Files hold the network with the adapters added in: nobody who acts, and no tool of LeRobot's, meets one.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lwd.commands import missing_extra
from lwd.errors import CheckpointError, ConfigError
from lwd.models.lerobot.vla import LeRobotVLA

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What gets an adapter, in every layer of the language model and of the action expert."""
_NAME = "default"


class AdaptedVLA(LeRobotVLA):
    """A copy of a policy that shares all its weights and learns adapters beside them; at first it acts the same."""

    def __init__(self, plain: LeRobotVLA, rank: int) -> None:
        """
        Args:
            plain: keeps acting as it does: no weight of it changes.
        Raises:
            ConfigError: if peft is not installed, the rank is not positive, or the plain policy's backbone learns.
        """
        if rank < 1:
            raise ConfigError(f"lora_rank is {rank}; an adapter has at least rank 1")
        if plain.config.backbone_trained:
            raise ConfigError("lora_rank is given and backbone_trained True: adapters stand beside frozen weights")
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError(missing_extra("--lora", f"peft ({error})", ["learner", "lerobot"])) from error
        self.__dict__.update(deepcopy(plain.__dict__, _shared(plain)))
        names = [
            name
            for name, module in self.network.model.named_modules()
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in _PROJECTIONS and "vision" not in name
        ]
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
        inject_adapter_in_model(lora, self.network.model)
        # In a list: this is no part of the network.
        self._plain = [plain]
        self.eval()
        self.train_backbone(True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdaptedVLA":
        """Copy the adapters; all other weights are one for all copies."""
        memo |= _shared(self)
        memo |= {id(plain): plain for plain in self._plain}
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    @property
    def reference(self) -> LeRobotVLA:
        """The policy without its adapters."""
        return self._plain[0]

    @property
    def learns_backbone(self) -> bool:
        return True

    def train_backbone(self, trained: bool) -> None:
        if not trained:
            raise ConfigError("train_backbone is False, but the adapters are in the backbone, too: set it to True")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(_is_adapter(name))

    def learned_state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if _is_adapter(name)}

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        missing, unexpected = self.load_state_dict(state, strict=False)
        if lacking := [*unexpected, *filter(_is_adapter, missing)]:
            raise CheckpointError(f"the state is of another policy: {lacking[0]} does not fit these adapters")

    @torch.no_grad()
    def merged(self) -> LeRobotVLA:
        """Return a policy without adapters that acts as this one does; weights without an adapter are shared."""
        plain = self.reference
        adapted = {
            name.replace(".base_layer", ""): module
            for name, module in self.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        memo = _shared(plain)
        for name, module in adapted.items():
            weight = plain.get_parameter(f"{name}.weight")
            added = (weight.float() + module.get_delta_weight(_NAME).float()).to(weight.dtype)
            memo[id(weight)] = nn.Parameter(added, requires_grad=weight.requires_grad)
        whole = object.__new__(LeRobotVLA)
        memo[id(plain)] = whole
        whole.__dict__.update(deepcopy(plain.__dict__, memo))
        # Its backbone is another one than that whose prefixes are kept.
        whole.kept_rows = None
        return whole


def _shared(policy: LeRobotVLA) -> dict[int, Any]:
    """What copies of a policy have in common, for deepcopy: all weights but adapters, and the processors."""
    named = (*policy.named_parameters(remove_duplicate=False), *policy.named_buffers(remove_duplicate=False))
    return {id(tensor): tensor for name, tensor in named if not _is_adapter(name)} | {
        id(policy.processors): policy.processors,
        id(policy.kept_rows): policy.kept_rows,
    }


def _is_adapter(name: str) -> bool:
    return ".lora_" in name
