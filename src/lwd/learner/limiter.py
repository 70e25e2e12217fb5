"""The update-to-data ratio as an object: how many updates the data at hand allows, and how far robots may run ahead."""

from dataclasses import dataclass
from typing import Protocol

from lwd.errors import ConfigError


class Limiter(Protocol):
    """Keeps a learner and its fleet in step."""

    def updates_allowed(self, env_steps: int) -> int:
        """Return how many updates the stage may have done in total after `env_steps`."""

    def step_budget(self, updates: int) -> int:
        """Return how many environment steps the fleet may have produced in total after `updates`."""


@dataclass(frozen=True, kw_only=True)
class UpdateToDataLimiter:
    """Keeps updates and environment steps in proportion.

    With N env steps committed since the stage began, the learner may have done up to
    `updates_per_step * (N - min_steps)` updates, and robots should pause once N is more than `max_lead_steps` ahead
    of what the updates have used.
    """

    updates_per_step: float
    """Updates per environment step of the fleet."""
    min_steps: int = 0
    """Environment steps before the first update."""
    max_lead_steps: int = 50_000
    """Environment steps the fleet may be ahead of the learner before it should pause."""

    def __post_init__(self) -> None:
        if not self.updates_per_step > 0:
            raise ConfigError(f"updates_per_step is {self.updates_per_step}; it must be positive")
        if self.min_steps < 0:
            raise ConfigError(f"min_steps is {self.min_steps}; it must not be negative")
        if self.max_lead_steps <= self.min_steps:
            # The fleet would pause before the learner may begin: neither could ever continue.
            raise ConfigError(
                f"max_lead_steps is {self.max_lead_steps}, min_steps {self.min_steps}: learner and fleet would wait "
                "for each other; make max_lead_steps larger than min_steps"
            )

    def updates_allowed(self, env_steps: int) -> int:
        """Return how many updates the stage may have done in total after `env_steps`."""
        return max(0, int(self.updates_per_step * (env_steps - self.min_steps)))

    def step_budget(self, updates: int) -> int:
        """Return how many environment steps the fleet may have produced in total after `updates`."""
        return self.max_lead_steps + int(updates / self.updates_per_step)


@dataclass(frozen=True, kw_only=True)
class RoundLimiter:
    """Roll-outs and training take turns: a round's steps by one policy, then its updates, while the robots wait."""

    steps_per_round: int
    """Environment steps of the fleet."""
    updates_per_round: int

    def __post_init__(self) -> None:
        for name in ("steps_per_round", "updates_per_round"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a round has at least one")

    def updates_allowed(self, env_steps: int) -> int:
        """Return the updates of all rounds whose steps are done."""
        return env_steps // self.steps_per_round * self.updates_per_round

    def step_budget(self, updates: int) -> int:
        """Return the steps of all rounds up to the one that is being collected."""
        return (updates // self.updates_per_round + 1) * self.steps_per_round
