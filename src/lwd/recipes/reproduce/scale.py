"""The budgets of the experiment: how much of everything."""

from dataclasses import dataclass
from typing import Literal

from lwd.errors import ConfigError
from lwd.recipes.budget import Budget
from lwd.robots.sim import TASKS

ScaleName = Literal["smoke", "small", "full"]

EVALUATION_SEED = 2000
"""Of the starts that all cells are evaluated on. Settings are chosen on seeds 0 to 10, `lwd learn` uses 1000."""
WORLD = "shifted"
"""Where the fleet works and every policy is evaluated; the demonstrations are of the nominal world."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One budget of the whole experiment."""

    name: ScaleName
    stages: Budget
    """Budget of the verbs: updates of SFT and offline learning, and amount of offline data."""
    seeds: tuple[int, ...]
    episodes: int
    """Evaluation episodes per task, method and seed."""
    tasks: tuple[str, ...]
    """That are evaluated, short ones first; training sees all of them."""
    robots: int
    env_steps: int
    """Of the whole fleet in an online stage."""
    fleet_sizes: tuple[int, ...]
    """Compared with each other; the largest is `robots`."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if max(self.fleet_sizes) != self.robots:
            raise ConfigError(f"fleet_sizes is {self.fleet_sizes}; its largest must be robots, {self.robots}")
        if not self.seeds or self.episodes < 1:
            raise ConfigError(f"seeds is {self.seeds} and episodes {self.episodes}; use at least one of each")


_ALL_TASKS = tuple(sorted(TASKS, key=lambda name: TASKS[name].long_horizon))

SCALES: dict[ScaleName, Scale] = {
    # To see that everything runs: at most ten minutes of two cores for all cells of one seed.
    "smoke": Scale(
        name="smoke",
        stages="smoke",
        seeds=(0,),
        episodes=1,
        tasks=("press_button", "put_in_drawer"),
        robots=4,
        # 60 updates at the smoke recipe's ratio: one published policy, one row of metrics.
        env_steps=3_000,
        fleet_sizes=(1, 4),
    ),
    "small": Scale(
        name="small",
        stages="full",
        seeds=(0, 1, 2),
        episodes=25,
        tasks=_ALL_TASKS,
        robots=16,
        env_steps=150_000,
        fleet_sizes=(1, 2, 4, 8, 16),
    ),
    "full": Scale(
        name="full",
        stages="large",
        seeds=(0, 1, 2, 3, 4),
        episodes=50,
        tasks=_ALL_TASKS,
        robots=64,
        env_steps=3_000_000,
        fleet_sizes=(1, 4, 16, 64),
        device="cuda",
    ),
}
