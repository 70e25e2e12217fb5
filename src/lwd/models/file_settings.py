"""What the metadata of a network's file may say: every number of it has a limit.

Numbers that a network is built from are bounded twice: here, and by the tensors of the file, which the network is
compared with before it gets any memory (`lwd.models.checkpoint`).
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lwd.errors import CheckpointError
from lwd.matching import check_names
from lwd.models.critic import CriticConfig, PretrainedCriticConfig
from lwd.models.vla import VLAConfig
from lwd.types import Embodiment, TokenSpec

FORMAT = "lwd-1"
MAX_HORIZON = 1024
MAX_FLOW_STEPS = 1000
"""A hundred times the usual: a chunk with more is late on any robot."""
_Width = Annotated[int, Field(ge=1, le=65_536)]
_Depth = Annotated[int, Field(ge=1, le=256)]
_Horizon = Annotated[int, Field(ge=1, le=MAX_HORIZON)]
_Text = Annotated[str, Field(max_length=4096)]
_Names = Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=65_536)]
_Side = Annotated[int, Field(ge=1, le=8192)]
_Size = tuple[_Side, _Side]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Token(_Settings):
    name: str = Field(max_length=256)
    size: int = Field(ge=1, le=65_536)
    names: _Names = ()


class EmbodimentSettings(_Settings):
    """`lwd.types.Embodiment`."""

    name: str = Field(max_length=256)
    control_hz: float = Field(gt=0, le=100_000)
    state_tokens: tuple[_Token, ...] = Field(min_length=1, max_length=4096)
    action_low: tuple[float, ...] = Field(min_length=1, max_length=4096)
    action_high: tuple[float, ...] = Field(min_length=1, max_length=4096)
    cameras: dict[str, _Size] = Field(default_factory=dict, max_length=64)
    action_names: _Names = ()
    recorded_cameras: dict[str, _Size] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.action_low, self.action_high
        if len(low) != len(high) or not all(a <= b for a, b in zip(low, high, strict=True)):
            raise ValueError("action_low must not lie above action_high, column by column")
        check_names("action_names", self.action_names, len(low))
        for token in self.state_tokens:
            check_names(f"state token {token.name}", token.names, token.size)
        return self

    @property
    def embodiment(self) -> Embodiment:
        return Embodiment(
            name=self.name,
            control_hz=self.control_hz,
            state_tokens=tuple(TokenSpec(**token.model_dump()) for token in self.state_tokens),
            action_low=self.action_low,
            action_high=self.action_high,
            cameras=self.cameras,
            action_names=self.action_names,
            recorded_cameras=self.recorded_cameras,
        )


class _VLASettings(_Settings):
    """`lwd.models.vla.VLAConfig`; what a file leaves out is the default there."""

    horizon: _Horizon = VLAConfig.horizon
    token_width: _Width = VLAConfig.token_width
    context_size: _Width = VLAConfig.context_size
    expert_width: _Width = VLAConfig.expert_width
    expert_depth: _Depth = VLAConfig.expert_depth
    flow_steps: int = Field(default=VLAConfig.flow_steps, ge=1, le=MAX_FLOW_STEPS)

    @property
    def config(self) -> VLAConfig:
        return VLAConfig(**self.model_dump())


class _CriticSettings(_Settings):
    """`lwd.models.critic.CriticConfig`, and what `PretrainedCriticConfig` has besides where `language` is given."""

    token_width: _Width = CriticConfig.token_width
    readout_size: _Width = CriticConfig.readout_size
    action_width: _Width = CriticConfig.action_width
    pooling_heads: int = Field(default=CriticConfig.pooling_heads, ge=1, le=1024)
    width: _Width = CriticConfig.width
    depth: _Depth = CriticConfig.depth
    num_critics: int = Field(default=CriticConfig.num_critics, ge=1, le=256)
    num_atoms: int = Field(default=CriticConfig.num_atoms, ge=1, le=65_536)
    value_low: float = CriticConfig.value_low
    value_high: float = CriticConfig.value_high
    language: _Text | None = None
    vision: _Text | None = None
    tokens_per_side: int | None = Field(default=None, ge=1, le=256)
    states_at_once: int | None = Field(default=None, ge=1, le=2**20)

    @property
    def config(self) -> CriticConfig:
        given = self.model_dump(exclude_unset=True)
        return PretrainedCriticConfig(**given) if "language" in given else CriticConfig(**given)


class _Critic(_Settings):
    config: _CriticSettings
    horizon: _Horizon


class NetworkFile(_Settings):
    """The description of a policy, of its frozen base, or of a value/critic network."""

    format: Literal["lwd-1"]
    kind: Literal["policy", "base", "value"]
    embodiment: EmbodimentSettings
    instructions: tuple[_Text, ...] | None = Field(default=None, max_length=100_000)
    config: _VLASettings | _CriticSettings | None = None
    horizon: _Horizon | None = None
    """Of a value network."""
    guidance: float | None = Field(default=None, ge=-1000, le=1000)
    samples: int | None = Field(default=None, ge=1, le=1024)
    critic: _Critic | None = None
    lerobot: dict[str, Any] | None = None
    """Checked by `lwd.models.lerobot.files`."""
    base: _Sha256 | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Every kind of network has its parts."""
        if self.kind == "policy" and self.lerobot is None and not isinstance(self.config, _VLASettings):
            raise ValueError("a policy has the config of a flow policy, or lerobot")
        if self.kind == "policy" and self.instructions is None:
            raise ValueError("a policy has instructions")
        if self.samples is not None and self.critic is None:
            raise ValueError("samples need a critic")
        if self.kind == "value" and (self.horizon is None or not isinstance(self.config, _CriticSettings)):
            raise ValueError("a value network has a config and a horizon")
        return self

    @property
    def vla(self) -> VLAConfig:
        assert isinstance(self.config, _VLASettings)  # `_complete`
        return self.config.config

    @property
    def critic_config(self) -> tuple[CriticConfig, int]:
        """Configuration and horizon of the critic: a value network's own, or the one beside a policy."""
        if self.critic is not None:
            return self.critic.config.config, self.critic.horizon
        assert isinstance(self.config, _CriticSettings)  # `_complete`
        assert self.horizon is not None
        return self.config.config, self.horizon


def read_settings(text: str, kind: str, name: str) -> NetworkFile:
    """Read the description in a network's file.

    Args:
        kind: what the file must hold.
        name: of the file, for the error.
    Raises:
        CheckpointError: naming the first field that is wrong, and its value.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} has metadata that is no JSON ({str(error)[:200]}): copy it again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        form = str(found.get("format"))[:80] if isinstance(found, dict) else str(found)[:80]
        raise CheckpointError(f"{name} has format {form!r}; this version reads {FORMAT!r}")
    if "kind" in found and found["kind"] != kind:
        raise CheckpointError(f"{name} holds a {str(found['kind'])[:80]} network; a {kind} network is needed")
    try:
        return NetworkFile.model_validate(found, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "metadata"
        raise CheckpointError(
            f"{name}: {field} is {str(first['input'])[:80]} ({first['msg']}): write the file again"
        ) from error
