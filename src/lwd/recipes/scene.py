"""The recipe for OGBench's scene: small networks, sparse success reward, eight tasks.

The defaults in `lwd.algos` are the paper's numbers for a VLA on real robots. Where a number here differs, the
reason stands beside it; `docs/recipe.md` has the measurements.
"""

from dataclasses import dataclass, field

from lwd.algos.lwd import LWDConfig
from lwd.algos.sft import SFTConfig
from lwd.models.critic import CriticConfig
from lwd.models.precision import Precision
from lwd.models.vla import VLAConfig

GAMMA = 0.999
"""Per control step. The paper's 0.9999 is for 30 Hz episodes of minutes; a scene episode has 60-400 steps."""


@dataclass(frozen=True, kw_only=True)
class SFTRecipe:
    """How the reference policy is fitted to the demonstrations."""

    policy: VLAConfig = field(default_factory=VLAConfig)
    # From-scratch networks of 0.3 M parameters take 50 times the learning rate of a pretrained VLA.
    algorithm: SFTConfig = field(default_factory=lambda: SFTConfig(learning_rate=1e-3, total_updates=16_000))
    updates: int = 16_000
    batch_size: int = 256


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """How one stage of offline-to-online reinforcement learning runs."""

    algorithm: LWDConfig
    updates: int
    """Critic updates of the stage; online, the most there can be."""
    batch_size: int = 256
    n_step_short: int = 1
    n_step_long: int = 1
    """Chunks in a TD target, per kind of task (method.md section 4)."""
    precision: Precision = "float32"


def offline_stage(*, updates: int = 4500) -> StageRecipe:
    """Offline on B_off: the paper's quantile base, ten-chunk targets on long tasks."""
    return StageRecipe(
        algorithm=_small_networks(quantile_base=0.6, critic_warmup_updates=1200),
        updates=updates,
        n_step_long=10,
    )


def online_stage(*, updates: int = 1_000_000) -> StageRecipe:
    """Online on B_off and B_on at 1:1: an optimistic quantile base, one-chunk targets."""
    return StageRecipe(algorithm=_small_networks(quantile_base=0.9), updates=updates)


def _small_networks(*, quantile_base: float, critic_warmup_updates: int = 0) -> LWDConfig:
    return LWDConfig(
        quantile_base=quantile_base,
        quantile_low=0.1,
        # The std of Q over reference actions is 0.02-0.05 here: the paper's lambda of 2 would leave the policy as
        # it is, below a tenth of the spread it exploits the critic's errors.
        temperature="auto",
        auto_temperature_fraction=0.4,
        # Networks from scratch and without pretraining: 10-20 times the paper's rates for a VLA.
        critic_learning_rate=3e-4,
        actor_learning_rate=3e-4,
        # On two CPU cores the actor's update costs twice the critic's; half as many, of half the size, learn as well.
        actor_every=2,
        actor_batch_size=128,
        critic_warmup_updates=critic_warmup_updates,
    )


def critic_config() -> CriticConfig:
    """Sizes of V and Q."""
    return CriticConfig()
