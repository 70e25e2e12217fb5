"""Settings of LWD and of the value learning and policy extraction that it is compared with."""

from dataclasses import dataclass
from typing import Literal

from lwd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LWDConfig:
    """Settings of one stage. The defaults are the paper's offline stage; a recipe says where and why it differs."""

    value: Literal["divl", "expectile", "policy_td"] = "divl"
    """How V and Q learn (`lwd.algos.values`): LWD's own way, or one that it is compared with."""
    extraction: Literal["qam", "fql", "best_of_n"] = "qam"
    """How the policy follows Q (`lwd.algos.extraction`); "best_of_n" deploys the reference with the critic."""
    quantile_base: float = 0.6
    """tau_base: 0.6 offline, 0.9 online in the paper."""
    entropy_weight: float = 0.3
    """alpha, how much an uncertain value distribution lowers the quantile level; 0 keeps the level constant."""
    quantile_low: float = 0.05
    quantile_high: float = 0.95
    expectile: float = 0.7
    """With "expectile": IQL's own level for locomotion. Its 0.9 asks for the best of many actions at a state, which few
    demonstrations do not have."""
    pessimism: float = 0.5
    """With "policy_td": rho, standard deviations of the ensemble below its mean."""
    distillation_weight: float = 10.0
    """With "fql": alpha."""
    samples: int = 16
    """With "best_of_n": N."""
    bootstrap_low: float = 0.0
    bootstrap_high: float = 1.0
    """The return of a sparse success reward lies in [0, 1]; bootstrap values are brought into it."""
    temperature: float | Literal["auto"] = 2.0
    """lambda. Its right scale follows from the critic's: "auto" is a fraction of Q's std over reference actions."""
    auto_temperature_fraction: float = 0.4
    """With "auto": lambda = fraction * std of Q over the reference policy's samples at a state, tracked."""
    rollout: Literal["reference", "policy"] = "reference"
    """Whose SDE gives the trajectories: the reference's (the paper; Q's gradient is then taken at actions the policy
    may have left, and only a Q that is linear in the action gives the exact target), or the policy's (adjoint
    matching proper: exact at convergence)."""
    flow_steps: int = 10
    """T, steps of the memoryless SDE and of the adjoint."""
    critic_loss_weight: float = 1.0
    """Of the squared error beside the cross entropy, which is a hundred times as large and shapes the shared encoder
    alone where the weight is 1."""
    polyak_rate: float = 0.005
    critic_learning_rate: float = 5e-4
    actor_learning_rate: float = 2e-5
    actor_weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    total_updates: int | None = None
    """Length of the cosine schedules; None keeps the learning rates constant."""
    actor_every: int = 1
    """Critic updates per actor update."""
    actor_batch_size: int | None = None
    """States of the batch that the actor's update uses; None uses them all."""
    critic_warmup_updates: int = 0
    """Updates at the start of the stage that train only V and Q."""
    train_backbone: bool = True
    """False freezes the policy's backbone (the paper's online stage) and shares its context with the reference."""
    policy_polyak_rate: float = 1.0
    """The deployed policy is the running average of the trained weights; 1 deploys the trained ones (the paper)."""
    reference_learning_rate: float | None = None
    """None keeps the reference f_beta as it was (the paper). A rate lets it follow the replay's behaviour: flow
    matching on the transitions worth imitating, at every update (arXiv 2601.14234 trains its f_beta so)."""
    reference_polyak_rate: float = 0.005
    """The reference that QAM uses is the running average of the one that is trained."""
    spread_every: int = 50
    """Updates between measurements of Q's spread over reference actions."""

    def __post_init__(self) -> None:
        if self.temperature != "auto" and self.temperature <= 0:
            raise ConfigError(f'temperature is {self.temperature}; give a positive number or "auto"')
        if self.auto_temperature_fraction <= 0:
            raise ConfigError(f"auto_temperature_fraction is {self.auto_temperature_fraction}; it must be positive")
        if not 0 < self.expectile < 1:
            raise ConfigError(f"expectile is {self.expectile}; it lies in (0, 1)")
        for name in ("pessimism", "distillation_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.samples < 1:
            raise ConfigError(f"samples is {self.samples}; it must be at least 1")
        if self.actor_every < 1:
            raise ConfigError(f"actor_every is {self.actor_every}; it must be at least 1")
        if self.reference_learning_rate is not None and not self.reference_learning_rate > 0:
            raise ConfigError(
                f"reference_learning_rate is {self.reference_learning_rate}; give a positive rate, or None to keep the "
                "reference fixed"
            )
