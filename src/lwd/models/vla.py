"""A small vision-language-action policy with a flow action head (method.md section 3)."""

from dataclasses import dataclass

from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ShapeError
from lwd.models.acting import ActingPolicy
from lwd.models.encoder import ObservationEncoder
from lwd.models.expert import VJP, ActionExpert, VelocityField
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import Normalizer, StateStatistics
from lwd.models.precision import Precision, compute_in, dtype_of
from lwd.ops.flow import ode_sample
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


class SmallVLA(ActingPolicy):
    """Implements `FlowPolicy`: a backbone encodes each state once, an action expert predicts velocities.

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
        """Of the matrix products; the learner may lower it, acting stays at float32."""
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

    def encode(self, observation: ObservationBatch) -> Tensor:
        """Return the context (B, W) of `velocity`, computed once per state."""
        return self.condition(self.features(observation))

    def features(self, observation: ObservationBatch) -> Tensor:
        """Return the backbone's features (B, C); policy and reference share them where the backbone is frozen."""
        with compute_in(self.precision, observation.state_BS.device):
            return self.backbone(observation).float()  # type: ignore[no-any-return]

    def condition(self, features_BC: Tensor) -> Tensor:
        """Return the context (B, W) of features: the action expert's own view of them."""
        with compute_in(self.precision, features_BC.device):
            return self.expert.condition(features_BC).float()

    def velocity(self, context: Tensor, noisy_chunk_BHA: Tensor, flow_time_B: Tensor) -> Tensor:
        """Return the velocity (..., B, H, A) at noisy chunks of the same shape and flow times (..., B)."""
        return self.field(context)(noisy_chunk_BHA, flow_time_B)

    def field(self, context: Tensor) -> VelocityField:
        """Return the velocity at fixed states, for many evaluations with the weights of this moment."""
        return self.expert.field(context, dtype_of(self.precision))

    def linearize(self, context: Tensor, noisy_chunk_NBHA: Tensor, flow_time_NB: Tensor) -> VJP:
        """Return `vjp(step, g_BHA)`: products of the velocity's Jacobian at each of N steps."""
        return self.field(context).linearize(noisy_chunk_NBHA, flow_time_NB)

    def sample(self, observation: ObservationBatch, noise_BHA: Tensor) -> Tensor:
        """Integrate the flow from noise: chunks (B, H, A), normalised."""
        return ode_sample(self.field(self.encode(observation)), noise_BHA, num_steps=self.config.flow_steps)
