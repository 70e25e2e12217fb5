"""Distributional value and clipped double critic over one shared encoder (method.md sections 2 and 5)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwd.batch import ObservationBatch
from lwd.errors import ConfigError
from lwd.models.encoder import ObservationEncoder
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import Normalizer, StateStatistics
from lwd.models.precision import Precision, compute_in
from lwd.models.vision_language import VisionLanguageEncoder
from lwd.ops.categorical import support
from lwd.types import Embodiment


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Sizes of the value/critic network; the defaults of the support are the paper's."""

    token_width: int = 32
    readout_size: int = 256
    action_width: int = 64
    pooling_heads: int = 4
    width: int = 256
    depth: int = 2
    num_critics: int = 2
    num_atoms: int = 201
    """1: the value is a number instead of a distribution (expectile regression)."""
    value_low: float = -0.1
    value_high: float = 1.1


@dataclass(frozen=True, kw_only=True)
class PretrainedCriticConfig(CriticConfig):
    """A critic whose encoder is a pretrained vision-language model; the heads are those of `CriticConfig`."""

    language: str = "google/gemma-3-270m-it"
    """Directory or hub id: tokenizer, configuration and, where training begins, weights."""
    vision: str = "google/siglip-so400m-patch14-224"
    tokens_per_side: int = 8
    """A picture becomes so many tokens squared."""
    states_at_once: int | None = None
    """Transitions of a batch that go through the network at a time when it learns, for memory; None: all."""

    def __post_init__(self) -> None:
        if self.states_at_once is not None and self.states_at_once < 1:
            raise ConfigError(f"states_at_once is {self.states_at_once}; it must be at least 1")
        if self.tokens_per_side < 1:
            raise ConfigError(f"tokens_per_side is {self.tokens_per_side}; a picture needs at least one token")


class ChunkPooling(nn.Module):
    """Learned temporal attention over the steps of an action chunk: (..., H, A) -> (..., heads * width)."""

    def __init__(self, *, action_size: int, horizon: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(action_size, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.5)
        self.score = nn.Linear(width, heads, bias=False)
        self.position_score = nn.Parameter(torch.randn(horizon, heads))

    def forward(self, chunk_BHA: Tensor, mask_BH: Tensor | None) -> Tensor:
        steps_BHW = F.silu(self.embed(chunk_BHA) + self.position)
        scores_BHP = self.score(steps_BHW) + self.position_score
        if mask_BH is not None:
            scores_BHP = scores_BHP.masked_fill(~mask_BH.unsqueeze(-1), -torch.inf)
        weights_BHP = scores_BHP.softmax(dim=-2)
        return (weights_BHP.transpose(-1, -2) @ steps_BHW).flatten(-2)  # type: ignore[no-any-return]


class ValueCritic(nn.Module):
    """`encode` once per state; a categorical value V(s) and critics Q1, Q2, ... (s, chunk) read from it.

    Observations and chunks arrive in physical units at `encode`, normalised to [-1, 1] at `q` (the flow's units).
    """

    atoms_K: Tensor

    def __init__(
        self,
        embodiment: Embodiment,
        config: CriticConfig,
        statistics: StateStatistics,
        horizon: int,
        *,
        instructions: InstructionEncoder | None = None,
        pretrained_weights: bool = True,
    ) -> None:
        """
        Args:
            instructions: of the policy, for a pretrained encoder, which reads text.
            pretrained_weights: whether a pretrained encoder begins with them; False: the caller loads trained ones.
        Raises:
            CheckpointError: if there is no such pretrained encoder.
        """
        super().__init__()
        self.embodiment = embodiment
        self.config = config
        self.precision: Precision = "float32"
        """Of the matrix products; the learner may lower it."""
        normalizer = Normalizer(embodiment, statistics)
        self.encoder: ObservationEncoder | VisionLanguageEncoder
        if isinstance(config, PretrainedCriticConfig):
            self.encoder = VisionLanguageEncoder(
                embodiment,
                normalizer,
                instructions or InstructionEncoder(),
                width=config.readout_size,
                language=config.language,
                vision=config.vision,
                tokens_per_side=config.tokens_per_side,
                weights=pretrained_weights,
            )
        else:
            self.encoder = ObservationEncoder(
                embodiment, normalizer, width=config.readout_size, token_width=config.token_width
            )
        self.value_head = _head(config.readout_size, config.width, config.depth, config.num_atoms)
        self.pooling = ChunkPooling(
            action_size=embodiment.action_size,
            horizon=horizon,
            width=config.action_width,
            heads=config.pooling_heads,
        )
        pooled_size = config.pooling_heads * config.action_width
        self.q_heads = nn.ModuleList(
            _head(config.readout_size + pooled_size, config.width, config.depth, 1) for _ in range(config.num_critics)
        )
        distributional = config.num_atoms > 1
        atoms_K = support(config.num_atoms, config.value_low, config.value_high) if distributional else torch.zeros(0)
        self.register_buffer("atoms_K", atoms_K)

    @property
    def states_at_once(self) -> int | None:
        """Transitions whose activations fit into the memory: gradients of larger batches add up; None: any number."""
        return self.config.states_at_once if isinstance(self.config, PretrainedCriticConfig) else None

    @property
    def instructions(self) -> InstructionEncoder | None:
        """What a pretrained encoder takes instructions' texts from; the small one reads embeddings."""
        return self.encoder.instructions if isinstance(self.encoder, VisionLanguageEncoder) else None

    @instructions.setter
    def instructions(self, instructions: InstructionEncoder) -> None:
        if isinstance(self.encoder, VisionLanguageEncoder):
            self.encoder.instructions = instructions

    @property
    def normalizer(self) -> Normalizer:
        """Statistics of states and actions, part of the checkpoint."""
        return self.encoder.normalizer

    def encode(self, observation: ObservationBatch) -> Tensor:
        """Return the readout z (B, Z)."""
        with compute_in(self.precision, observation.state_BS.device):
            return self.encoder(observation).float()  # type: ignore[no-any-return]

    def value_logits(self, z_BZ: Tensor) -> Tensor:
        """Return logits (B, K) of the value distribution over `atoms_K`."""
        with compute_in(self.precision, z_BZ.device):
            return self.value_head(z_BZ).float()  # type: ignore[no-any-return]

    def value(self, z_BZ: Tensor) -> Tensor:
        """Return the value (B,): the number itself, or the mean of its distribution."""
        logits_BK = self.value_logits(z_BZ)
        return logits_BK.squeeze(-1) if self.config.num_atoms == 1 else logits_BK.softmax(-1) @ self.atoms_K

    @torch.no_grad()
    def value_probs(self, observation: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Return the value distributions (B, K) of observations and their support (K,).

        Raises:
            ConfigError: if the value is a number.
        """
        if self.config.num_atoms == 1:
            raise ConfigError("num_atoms is 1: this value is a number; only a distributional one has probabilities")
        return self.value_logits(self.encode(observation)).softmax(-1), self.atoms_K

    def q(self, z_BZ: Tensor, chunk_BHA: Tensor, mask_BH: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return every critic's values (B,) of chunks normalised to [-1, 1]; padded steps are masked out.

        The last layer is float32: what chunks differ by at a state is often less than bfloat16's step at their values.
        """
        with compute_in(self.precision, z_BZ.device):
            x = torch.cat([z_BZ, self.pooling(chunk_BHA, mask_BH)], dim=-1)
            features = [head[:-1](x).float() for head in self.q_heads]  # type: ignore[index]
        return tuple(
            head[-1](features_BW).squeeze(-1)  # type: ignore[index]
            for head, features_BW in zip(self.q_heads, features, strict=True)
        )


def _head(in_size: int, width: int, depth: int, out_size: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (in_size, *[width] * (depth - 1)):
        layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, out_size))
