"""The update-to-data ratio as an object: how many updates the data at hand allows, and how far robots may run ahead."""

import math
from dataclasses import dataclass
from typing import Protocol

from lwd.errors import ConfigError


class Limiter(Protocol):
    """Keeps a learner and its fleet in step."""

    def updates_allowed(self, env_steps: int) -> int:
        """Return how many updates the stage may have done in total after `env_steps`."""

    def step_budget(self, updates: int, stage_steps: int) -> int:
        """Return how many environment steps the fleet may have produced in total after `updates`.

        Args:
            stage_steps: environment steps of the whole stage.
        """

    @property
    def holds_real_robots(self) -> bool:
        """Whether real robots wait for the learner, too, and not simulated ones alone."""


LEAD_SHARE = 10
"""By default the fleet may be ahead of the learner by this part of its stage: one tenth."""
MAX_LEAD_STEPS = 50_000
"""But by no more than this."""


@dataclass(frozen=True, kw_only=True)
class UpdateToDataLimiter:
    """Keeps updates and environment steps in proportion.

    With N env steps committed since the stage began, the learner may have done up to
    `updates_per_step * (N - min_steps)` updates, and simulated robots should pause once N is more than `max_lead_steps`
    ahead of what the updates have used. Otherwise they collect everything with the first policy while a slow learner
    trains the second. A real robot does not stand still for that.
    """

    updates_per_step: float
    """Updates per environment step of the fleet."""
    min_steps: int = 0
    """Environment steps before the first update."""
    max_lead_steps: int | None = None
    """Environment steps the fleet may be ahead of the learner before it should pause. None: `min_steps` and a tenth of
    the stage's steps, at most 50,000."""

    def __post_init__(self) -> None:
        if not self.updates_per_step > 0:
            raise ConfigError(f"updates_per_step is {self.updates_per_step}; it must be positive")
        if self.min_steps < 0:
            raise ConfigError(f"min_steps is {self.min_steps}; it must not be negative")
        if self.max_lead_steps is not None and self.max_lead_steps <= self.min_steps:
            # The fleet would pause before the learner may begin: neither could ever continue.
            raise ConfigError(
                f"max_lead_steps is {self.max_lead_steps}, min_steps {self.min_steps}: learner and fleet would wait "
                "for each other; make max_lead_steps larger than min_steps"
            )

    def updates_allowed(self, env_steps: int) -> int:
        """Return how many updates the stage may have done in total after `env_steps`."""
        return max(0, int(self.updates_per_step * (env_steps - self.min_steps)))

    def step_budget(self, updates: int, stage_steps: int) -> int:
        """Return how many environment steps the fleet may have produced in total after `updates`."""
        return self.lead_steps(stage_steps) + int(updates / self.updates_per_step)

    def lead_steps(self, stage_steps: int) -> int:
        """Return how many environment steps the fleet may be ahead in a stage of so many."""
        if self.max_lead_steps is not None:
            return self.max_lead_steps
        # Always enough for one more update: less, and the fleet would wait for it forever.
        least = self.min_steps + math.ceil(1 / self.updates_per_step) + 1
        return max(least, min(self.min_steps + stage_steps // LEAD_SHARE, MAX_LEAD_STEPS))

    @property
    def holds_real_robots(self) -> bool:
        return False


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

    def step_budget(self, updates: int, stage_steps: int) -> int:
        """Return the steps of all rounds up to the one that is being collected."""
        return (updates // self.updates_per_round + 1) * self.steps_per_round

    @property
    def holds_real_robots(self) -> bool:
        """A round is the method: all its steps are by one policy."""
        return True
