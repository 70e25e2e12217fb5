"""A recorded episode again in the simulator: the same start, the same actions, the same states."""

from collections.abc import Iterator

import numpy as np

from lwd.errors import RobotFault
from lwd.robots.sim import make_robot, task_named
from lwd.robots.sim.robot import SceneRobot
from lwd.types import Episode

_TOLERANCE = 1e-3
"""Largest difference between a replayed and a recorded state, in the state's own units."""


def replay(episode: Episode) -> Iterator[SceneRobot]:
    """Yield the robot at each of the episode's T + 1 states.

    Raises:
        RobotFault: where a state differs from the recorded one (another version of the simulator): what follows would
            show something that did not happen.
    """
    robot = make_robot(episode.info.embodiment, episode.info.world)
    try:
        observation = robot.reset(task_named(episode.info.task), episode.info.seed)
        for step in range(episode.steps + 1):
            if step:
                observation = robot.step(episode.actions_TA[step - 1]).observation
            if np.abs(observation.state - episode.states_TS[step]).max() > _TOLERANCE:
                raise RobotFault(f"the replay of {episode.info.episode_id} leaves the recorded states at step {step}")
            yield robot
    finally:
        robot.close()
