"""Simulated robots, by the name of their embodiment."""

from lwd.errors import ConfigError
from lwd.robots.sim.robot import ObservationKind, SceneRobot
from lwd.robots.sim.tasks import TASKS, task_named
from lwd.robots.sim.worlds import WORLDS, World, world_named

__all__ = ["EMBODIMENTS", "TASKS", "WORLDS", "SceneRobot", "World", "make_robot", "task_named", "world_named"]

EMBODIMENTS = ("ogbench-scene",)


def make_robot(
    embodiment: str = "ogbench-scene", world: str = "nominal", observation: ObservationKind = "state"
) -> SceneRobot:
    """Build a simulated robot.

    Raises:
        ConfigError: if embodiment, world or observation kind is not known.
    """
    if embodiment not in EMBODIMENTS:
        raise ConfigError(
            f"embodiment {embodiment!r} is not simulated; known ones are: {', '.join(EMBODIMENTS)}"
        )
    return SceneRobot(world_named(world), observation)
