"""A LeRobot VLA as a `FlowPolicy`: the backbone reads a state once, only the action expert runs at every flow step.

Shape suffixes besides the neighbours': L prefix tokens; F = the checkpoint's `max_action_dim`, of which the first A are
actions and the rest is padding.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lwd.batch import ObservationBatch
from lwd.errors import CheckpointError, ConfigError, ShapeError
from lwd.models.flow_policy import VJP, FlowPolicy, FrozenPrefix, KeptRows
from lwd.models.instruction import InstructionEncoder
from lwd.models.lerobot.families import Prefix, family_of
from lwd.models.lerobot.prefixes import LeRobotPrefix, looked_up
from lwd.models.lerobot.processors import Processors
from lwd.models.normalization import Normalizer, StateStatistics
from lwd.models.precision import Precision, compute_in, dtype_of
from lwd.types import Embodiment


@dataclass(frozen=True, kw_only=True)
class LeRobotVLAConfig:
    """How LWD uses a LeRobot policy; what the policy is stands in its own configuration."""

    camera_keys: tuple[tuple[str, str], ...] = ()
    """(camera of the embodiment, image of the checkpoint below `observation.images.`) where their names differ."""
    backbone_trained: bool = False
    """Whether the backbone learns. False: policy, reference and averages share one backbone."""
    gradient_checkpointing: bool = False
    """Whether the expert's activations are computed again for the backward pass instead of being kept."""
    backbone_precision: Precision = "float32"
    """How a frozen backbone's weights are kept. What learns is always kept in float32."""
    states_at_once: int | None = None
    """States of a batch that go through the network at a time when it learns, for memory; None: all."""
    lora_rank: int = 0
    """Of the adapters that SFT and offline learning train instead of weights (`adapters.AdaptedVLA`); 0: none."""

    def __post_init__(self) -> None:
        if self.states_at_once is not None and self.states_at_once < 1:
            raise ConfigError(f"states_at_once is {self.states_at_once}; it must be at least 1")
        if self.lora_rank < 0 or (self.lora_rank and self.backbone_trained):
            raise ConfigError(
                f"lora_rank is {self.lora_rank}, backbone_trained {self.backbone_trained}: either adapters learn (a "
                "rank of 1 and more), or the backbone's own weights"
            )
        if self.backbone_trained and self.backbone_precision != "float32":
            raise ConfigError(
                f"backbone_precision is {self.backbone_precision!r} and backbone_trained True: small updates would be "
                "lost in rounding; keep a backbone that learns in float32"
            )


class LeRobotVLA(FlowPolicy):
    """LeRobot's pi0, pi0.5 or SmolVLA, with its own classes, processors and weights.

    Inside the flow, chunks are in the checkpoint's units (normalised, relative to the state where it says so, padded to
    F entries). Flow time is turned round once: here 0 is noise and 1 is data, in LeRobot 1 is noise.
    """

    def __init__(
        self,
        network: Any,
        processors: Processors,
        embodiment: Embodiment,
        statistics: StateStatistics,
        config: LeRobotVLAConfig | None = None,
        instructions: InstructionEncoder | None = None,
    ) -> None:
        """
        Args:
            network: a `PreTrainedPolicy` of LeRobot.
            statistics: of states, for the critic that is trained beside it.
        Raises:
            ConfigError: if LWD has no adapter for the policy, or its features do not fit the embodiment.
        """
        super().__init__()
        self._family = family_of(network.config)
        self.config = config or LeRobotVLAConfig()
        self.network = network
        self.processors = processors
        self.embodiment = embodiment
        self.horizon = network.config.chunk_size
        self.precision: Precision = "float32"
        self.instructions = instructions or InstructionEncoder()
        self.state_normalizer = Normalizer(embodiment, statistics)
        self._image_keys = _image_keys(network.config, embodiment, self.config)
        self._shares_backbone = False
        self.kept_rows: KeptRows | None = None
        """Where prefixes are kept between the updates; None: nowhere."""
        for module in self._backbone():
            module.to(dtype_of(self.config.backbone_precision))
        for parameter in self._expert_parameters():
            # A checkpoint may come in bfloat16, in which small updates would be lost.
            parameter.data = parameter.data.float()
        # Never in training mode: dropout would make the reference's velocity another one at every call.
        self.eval()
        self.train_backbone(self.config.backbone_trained)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LeRobotVLA":
        """Copy the expert; a frozen backbone is one for all copies."""
        if not self.config.backbone_trained:
            memo |= {id(module): module for module in self._backbone()}
        memo[id(self.processors)] = self.processors
        memo[id(self.kept_rows)] = self.kept_rows
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        self._shares_backbone = copy._shares_backbone = not self.config.backbone_trained
        return copy

    @property
    def normalizer(self) -> Normalizer:
        """The critic's view of states and actions; the policy's own normalisation is its processors' business."""
        return self.state_normalizer

    @property
    def learns_backbone(self) -> bool:
        """Whether a gradient reaches what the backbone makes of a state."""
        return self.config.backbone_trained

    @property
    def states_at_once(self) -> int | None:
        return self.config.states_at_once

    @property
    def flow_steps(self) -> int:
        lerobot = self.network.config
        return int(lerobot.num_steps if hasattr(lerobot, "num_steps") else lerobot.num_inference_steps)

    @property
    def noise_shape(self) -> tuple[int, int]:
        return self.horizon, int(self.network.config.max_action_dim)

    def train_backbone(self, trained: bool) -> None:
        if trained and self.kept_rows is not None:
            raise ConfigError("train_backbone is True, but prefixes of the backbone are kept: leave --prefix-cache out")
        if trained and self._shares_backbone:
            raise ConfigError(
                "train_backbone is True, but the policy shares its frozen backbone with its copies: load it with "
                "backbone_trained=True, or keep train_backbone False"
            )
        for module in self._backbone():
            module.requires_grad_(trained)

    def frozen(self) -> "LeRobotVLA":
        """Freeze the backbone for good, so that all copies made from now on share it; returns the policy."""
        self.config = replace(self.config, backbone_trained=False)
        self.train_backbone(False)
        return self

    def learned_state(self) -> dict[str, Tensor]:
        """A frozen backbone, two thirds of the weights and more, is left out: it is in the policy file already."""
        frozen = self.frozen_names
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        missing, unexpected = self.load_state_dict(state, strict=False)
        frozen = self.frozen_names
        if lacking := [*unexpected, *(name for name in missing if name not in frozen)]:
            raise CheckpointError(
                f"the state is of another policy: {lacking[0]} does not fit {self.network.config.type}"
            )

    def features(self, observation: ObservationBatch) -> Prefix:
        """Return keys and values of each state's tokens; images, tokens and states go through the checkpoint's own
        preprocessor."""
        texts = self.instructions.texts(observation.instruction_BE.cpu().numpy())
        # What learns is never kept: an adapted copy has its plain policy's rows, but another prefix.
        if self.kept_rows is None or self.learns_backbone:
            return self.read(self.preprocessed(observation, texts))
        return looked_up(self, self.kept_rows, observation, texts)

    def preprocessed(self, observation: ObservationBatch, texts: list[str]) -> dict[str, Any]:
        """Return states and instructions as the backbone reads them."""
        return self.processors.observation(self._observation_items(observation), texts)

    def read(self, batch: dict[str, Any]) -> Prefix:
        """Run the backbone on what `preprocessed` returned."""
        trained = self.learns_backbone and torch.is_grad_enabled()
        with torch.set_grad_enabled(trained), compute_in(self.computes_prefix_in, batch["observation.state"].device):
            return self._family.prefix(self.network, batch)

    @property
    def computes_prefix_in(self) -> Precision:
        """Precision of the backbone's products."""
        return "bfloat16" if self.config.backbone_precision == "bfloat16" else self.precision

    def frozen_prefix(self) -> FrozenPrefix:
        if self.learns_backbone:
            raise ConfigError("the policy's backbone learns, so what it makes of a state changes with every update")
        return LeRobotPrefix(self)

    def condition(self, features: Prefix) -> Prefix:
        return features

    def field(self, context: Prefix) -> "ExpertField":
        return ExpertField(self, context)

    def flow_chunk(self, observation: ObservationBatch, action_chunk_BHA: Tensor) -> Tensor:
        normalized = self.processors.normalized_action(action_chunk_BHA, observation.state_BS)
        return nn.functional.pad(normalized, (0, self.noise_shape[1] - self.embodiment.action_size))

    def unit_chunk(self, observation: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        physical = self.processors.physical_action(self.real(chunk_BHF), observation.state_BS)
        return self.normalizer.action(physical)

    def physical_chunk(self, observation: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        return self.normalizer.physical_action(self.unit_chunk(observation, chunk_BHF))

    def lerobot_velocity(self, prefix: Prefix, chunk_BHF: Tensor, time_B: Tensor) -> Tensor:
        """Return LeRobot's velocity, from data to noise, at LeRobot's flow times; computed in `precision`."""
        with compute_in(self.precision, chunk_BHF.device):
            return self._family.velocity(self.network, prefix, chunk_BHF, time_B)

    def _backbone(self) -> list[nn.Module]:
        return self._family.backbone(self.network)

    @property
    def frozen_names(self) -> set[str]:
        """Names in `state_dict` of the backbone's tensors, none if it learns."""
        if self.config.backbone_trained:
            return set()
        modules = {id(part) for module in self._backbone() for part in module.modules()}
        inside = [name for name, module in self.named_modules() if id(module) in modules]
        return {key for key in self.state_dict() if any(key.startswith(f"{name}.") for name in inside)}

    def _expert_parameters(self) -> list[nn.Parameter]:
        backbone = {id(parameter) for module in self._backbone() for parameter in module.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in backbone]

    def _observation_items(self, observation: ObservationBatch) -> dict[str, Tensor]:
        images = {
            self._image_keys[camera]: image.permute(0, 3, 1, 2).float() / 255
            for camera, image in observation.images.items()
        }
        return {"observation.state": observation.state_BS, **images}


class ExpertField:
    """The action expert at given states. One flow step at a time: the prefix is not repeated for all of them."""

    def __init__(self, policy: LeRobotVLA, prefix: Prefix) -> None:
        self._policy, self._prefix = policy, prefix

    def __call__(self, chunk_NBHF: Tensor, flow_time_NB: Tensor, /) -> Tensor:
        if chunk_NBHF.ndim == 3:
            return self._at(chunk_NBHF, flow_time_NB)
        times = flow_time_NB.expand(chunk_NBHF.shape[:2])
        # Within one context: autocast then makes one copy of the weights for all N passes, which the graph would
        # otherwise hold N times.
        with compute_in(self._policy.precision, chunk_NBHF.device):
            return torch.stack([self._at(chunk, time) for chunk, time in zip(chunk_NBHF, times, strict=True)])

    def linearize(self, chunk_NBHF: Tensor, flow_time_NB: Tensor, /) -> VJP:
        """Each product is one forward and one backward pass of the expert with respect to its input alone."""
        times = flow_time_NB.expand(chunk_NBHF.shape[:2])

        def vjp(step: int, gradient_BHF: Tensor) -> Tensor:
            chunk = chunk_NBHF[step].detach().requires_grad_()
            with torch.enable_grad():
                velocity = self._velocity(chunk, times[step])
                (product,) = torch.autograd.grad(self._policy.real(velocity), chunk, self._policy.real(gradient_BHF))
            # Padding is no action: what the flow does with it is not steered.
            product[..., self._policy.embodiment.action_size :] = 0
            return product

        return vjp

    def _at(self, chunk_BHF: Tensor, flow_time_B: Tensor) -> Tensor:
        if self._policy.config.gradient_checkpointing and torch.is_grad_enabled():
            velocity = checkpoint(self._velocity, chunk_BHF, flow_time_B, use_reentrant=False)
            assert isinstance(velocity, Tensor)
            return velocity
        return self._velocity(chunk_BHF, flow_time_B)

    def _velocity(self, chunk_BHF: Tensor, flow_time_B: Tensor) -> Tensor:
        time_B = (1 - flow_time_B).expand(chunk_BHF.shape[:1])
        return -self._policy.lerobot_velocity(self._prefix, chunk_BHF, time_B).float()


def _image_keys(lerobot: Any, embodiment: Embodiment, config: LeRobotVLAConfig) -> dict[str, str]:
    """The checkpoint's image key for every camera; checks that states, actions and cameras fit.

    Raises:
        ShapeError: if state or action has another size.
        ConfigError: if a camera is not one of the checkpoint's.
    """
    state = lerobot.input_features["observation.state"].shape[0]
    action = lerobot.output_features["action"].shape[0]
    for name, found, wanted in (
        ("observation.state", state, embodiment.state_size),
        ("action", action, embodiment.action_size),
    ):
        if found != wanted:
            raise ShapeError(
                f"{name} of the checkpoint has {found} entries, embodiment {embodiment.name!r} has {wanted}: "
                "use a checkpoint of this robot, or fit it to the run's data"
            )
    renamed = dict(config.camera_keys)
    keys = {camera: f"observation.images.{renamed.get(camera, camera)}" for camera in embodiment.cameras}
    known = [key for key in lerobot.input_features if key.startswith("observation.images.")]
    for camera, key in keys.items():
        if key not in known:
            raise ConfigError(
                f"camera {camera!r} is no image of the checkpoint, whose images are "
                f"{', '.join(name.removeprefix('observation.images.') for name in known)}: "
                f"say which one it is, as {camera}=IMAGE"
            )
    if not keys:
        raise ConfigError(f"embodiment {embodiment.name!r} has no camera; a vision-language-action model needs one")
    return keys
