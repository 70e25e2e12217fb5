"""A small vision-language-action policy with a flow action head (method.md section 3)."""

from dataclasses import dataclass

from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ShapeError
from lwd.models.encoder import ObservationEncoder
from lwd.models.expert import ActionExpert, VelocityField
from lwd.models.flow_policy import FlowPolicy
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import Normalizer, StateStatistics
from lwd.models.precision import Precision, compute_in, dtype_of
from lwd.types import Embodiment


@dataclass(frozen=True, kw_only=True)
class VLAConfig:
    """Sizes of the small VLA."""

    horizon: int = 5
    """H, control steps per action chunk."""
    token_width: int = 32
    context_size: int = 256
    expert_width: int = 256
    expert_depth: int = 3
    flow_steps: int = 10
    """Euler steps from noise to a chunk when acting."""


class SmallVLA(FlowPolicy):
    """A backbone encodes each state once, an action expert predicts velocities.

    Chunks inside the flow are normalised to [-1, 1] per action dimension; `act` returns physical units.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        config: VLAConfig,
        statistics: StateStatistics,
        instructions: InstructionEncoder | None = None,
    ) -> None:
        super().__init__()
        if len(statistics.mean) != embodiment.state_size:
            raise ShapeError(
                f"statistics have {len(statistics.mean)} state entries, embodiment {embodiment.name!r} has "
                f"{embodiment.state_size}: measure them on data of the same embodiment"
            )
        self.embodiment = embodiment
        self.config = config
        self.horizon = config.horizon
        self.precision: Precision = "float32"
        self.instructions = instructions or InstructionEncoder()
        self.backbone = ObservationEncoder(
            embodiment,
            Normalizer(embodiment, statistics),
            width=config.context_size,
            token_width=config.token_width,
        )
        self.expert = ActionExpert(
            context_size=config.context_size,
            chunk_size=config.horizon * embodiment.action_size,
            width=config.expert_width,
            depth=config.expert_depth,
        )

    @property
    def normalizer(self) -> Normalizer:
        """Statistics of states and actions, part of the checkpoint."""
        return self.backbone.normalizer

    @property
    def flow_steps(self) -> int:
        return self.config.flow_steps

    def train_backbone(self, trained: bool) -> None:
        self.backbone.requires_grad_(trained)

    def features(self, observation: ObservationBatch) -> Tensor:
        """Return the backbone's features (B, C); policy and reference share them where the backbone is frozen."""
        with compute_in(self.precision, observation.state_BS.device):
            return self.backbone(observation).float()  # type: ignore[no-any-return]

    def condition(self, features_BC: Tensor) -> Tensor:
        """Return the context (B, W) of features: the action expert's own view of them."""
        with compute_in(self.precision, features_BC.device):
            return self.expert.condition(features_BC).float()

    def field(self, context: Tensor) -> VelocityField:
        return self.expert.field(context, dtype_of(self.precision))

    def flow_chunk(self, observation: ObservationBatch, action_chunk_BHA: Tensor) -> Tensor:
        return self.normalizer.action(action_chunk_BHA)

    def unit_chunk(self, observation: ObservationBatch, chunk_BHF: Tensor) -> Tensor:
        return chunk_BHF
