"""Simulated robots, by the name of their embodiment.

Names, tasks and embodiments are plain data; the simulator (the extra `sim`) loads when a robot is made.
"""

from typing import TYPE_CHECKING

from lwd.errors import ConfigError
from lwd.robots.sim.embodiments import PIXEL_EMBODIMENT, SIMULATED, STATE_EMBODIMENT, ObservationKind
from lwd.robots.sim.tasks import TASKS, task_named
from lwd.robots.sim.worlds import WORLDS, World, world_named

if TYPE_CHECKING:
    from lwd.robots.sim.robot import SceneRobot

__all__ = [
    "EMBODIMENTS",
    "SIMULATED",
    "TASKS",
    "WORLDS",
    "ObservationKind",
    "World",
    "embodiment_seeing",
    "make_robot",
    "task_named",
    "world_named",
]

EMBODIMENTS: dict[str, ObservationKind] = {
    STATE_EMBODIMENT.name: "state",
    PIXEL_EMBODIMENT.name: "pixels",
}
"""Embodiment -> what its policies see: the same robot and scene as state tokens, or through a camera."""


def embodiment_seeing(observation: ObservationKind) -> str:
    """Return the name of the embodiment whose policies see `observation`.

    Raises:
        ConfigError: if there is none.
    """
    for name, kind in EMBODIMENTS.items():
        if kind == observation:
            return name
    raise ConfigError(f"observation is {observation!r}; known are: {', '.join(EMBODIMENTS.values())}")


def make_robot(embodiment: str = STATE_EMBODIMENT.name, world: str = "nominal") -> "SceneRobot":
    """Build a simulated robot.

    Raises:
        ConfigError: if embodiment or world is not known.
    """
    if embodiment not in EMBODIMENTS:
        raise ConfigError(f"embodiment {embodiment!r} is not simulated; known ones are: {', '.join(EMBODIMENTS)}")
    from lwd.robots.sim.robot import SceneRobot

    return SceneRobot(world_named(world), EMBODIMENTS[embodiment])
