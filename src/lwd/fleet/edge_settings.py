"""What a robot host runs, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lwd.errors import ConfigError
from lwd.fleet.ahead import Seam
from lwd.operators.protocol import Operator
from lwd.robots.protocol import ObservingRobot, Robot
from lwd.types import Task


@dataclass(frozen=True, kw_only=True)
class FleetRobot:
    """One robot of a host, with whoever may take it over."""

    robot_id: str
    robot: Robot
    world: str
    operator: Operator | None = None
    start: int = 0
    """How often this robot was started before: a restarted host must not repeat its episodes."""

    @property
    def is_real(self) -> bool:
        """Whether its world moves on between two steps."""
        return isinstance(self.robot, ObservingRobot)


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """How the robots of a host are used."""

    tasks: tuple[Task, ...]
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """Share of the episodes by task name; empty: the tasks take turns."""
    seed: int = 0
    max_env_steps: int | None = None
    """No new episodes after this many steps of this host; running ones end."""
    max_episodes: int | None = None
    """No new episodes after this many of this host."""
    predict_ahead: int = 0
    """Actions left in a chunk when the next one is predicted, in the background; 0: when none is left. For one robot in
    real time: simulated ones would only compute twice at once."""
    seam: Seam = "guided"
    """How a chunk that was predicted ahead follows the one before."""

    def require_fit(self, robots: "tuple[FleetRobot, ...]") -> None:
        """
        Raises:
            ConfigError: if robots that need a host of their own share one.
        """
        if len(robots) == 1:
            return
        if self.predict_ahead:
            raise ConfigError(f"predict_ahead is for hosts of one robot, this one has {len(robots)}: start one each")
        if real := [unit.robot_id for unit in robots if unit.is_real]:
            raise ConfigError(
                f"robot {real[0]} shares its host with {len(robots) - 1} others, and would wait for their steps: start "
                "a host for each robot in real time"
            )
