"""A robot of a host and its present episode."""

import logging
import time
from dataclasses import dataclass

import numpy as np

from lwd.fleet.console_link import ConsoleLink
from lwd.fleet.edge_settings import EdgeSettings, FleetRobot
from lwd.fleet.messages import AxisStatus, RobotStatus
from lwd.fleet.release import LoadedPolicy
from lwd.fleet.views import scene_of
from lwd.operators.remote import RemoteOperator
from lwd.robots.holding import Holder
from lwd.robots.protocol import PosedRobot, driving_of
from lwd.robots.session import EpisodeSession
from lwd.types import Task

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Slot:
    """Belongs to the robots' thread."""

    unit: FleetRobot
    number: int
    random: np.random.Generator
    axes: tuple[AxisStatus, ...]
    holder: Holder
    """Holds the robot while it has no episode."""
    begun: int = 0
    faults: int = 0
    rest_until_s: float = 0.0
    next_step_s: float = 0.0
    """When a robot that a person drives makes its next step: they see the world in real time."""
    old_plans: int = 0
    """Plans of episodes that are over which were too old to be executed."""
    session: EpisodeSession | None = None
    policy: LoadedPolicy | None = None

    @property
    def remote(self) -> RemoteOperator | None:
        """Whoever may take the robot over from elsewhere."""
        return self.unit.operator if isinstance(self.unit.operator, RemoteOperator) else None

    @property
    def is_driven(self) -> bool:
        return self.remote is not None and self.remote.drives

    @property
    def is_due(self) -> bool:
        """Whether the robot may step now: always, but in real time while a person drives it."""
        return not self.is_driven or time.monotonic() >= self.next_step_s

    @property
    def may_begin(self) -> bool:
        """Whether the robot may move to the start of an episode: not under the hands of whoever holds its lease."""
        return self.remote is None or self.remote.may_begin

    @property
    def rolls(self) -> bool:
        """Whether the robot goes on moving while nothing is sent: a real one whose action is a velocity."""
        return self.unit.is_real and any(not axis.absolute for axis in driving_of(self.unit.robot).axes)

    def end(self) -> None:
        """The episode is over: the robot holds where it is, and the next one waits for whoever holds the lease."""
        if self.session is not None and (old := self.session.old_plans):
            self.old_plans += old
            _logger.warning(
                "robot %s: %d plans of episode %s came too late and were dropped: is the machine busy?",
                self.unit.robot_id, old, self.session.episode_id,
            )  # fmt: skip
        self.session = self.policy = None
        self.holder.hold()
        if self.remote is not None:
            self.remote.over()

    def next_task(self, settings: EdgeSettings) -> Task:
        """Return the task of the next episode."""
        tasks, weights = settings.tasks, settings.task_weights
        if not weights:
            # Robots of a host begin at different tasks, so that all tasks are seen from the start.
            return tasks[(self.number + self.begun) % len(tasks)]
        shares = np.array([weights.get(task.name, 0.0) for task in tasks])
        return tasks[int(self.random.choice(len(tasks), p=shares / shares.sum()))]

    def show(self, session: EpisodeSession, console: ConsoleLink) -> None:
        """Leave what whoever watches wants to see."""
        robot = self.unit.robot
        if console.is_due(self.unit.robot_id):
            if isinstance(robot, PosedRobot):
                console.show(self.unit.robot_id, session.steps, robot.body_poses())
            elif session.observation.images:
                console.show_pictures(self.unit.robot_id, session.steps, session.observation.images)
        if console.is_view_due(self.unit.robot_id):
            console.show_view(scene_of(session, robot.embodiment))

    def status(self, session: EpisodeSession) -> RobotStatus:
        """Return what the fleet is told of it."""
        embodiment = self.unit.robot.embodiment
        return RobotStatus(
            robot_id=self.unit.robot_id,
            task=session.task.name,
            instruction=session.instruction,
            episode_id=session.episode_id,
            step=session.steps,
            policy_version=self.policy.version if self.policy else -1,
            human=session.human_acts,
            sub_step_scores=session.sub_step_scores,
            time_limit=session.task.time_limit,
            control_hz=embodiment.control_hz,
            embodiment=embodiment.name,
            axes=self.axes,
        )


def random_of(seed: int, unit: FleetRobot) -> np.random.Generator:
    """Return what a robot's episodes are drawn from: others than before its host was restarted."""
    return np.random.default_rng([seed, unit.start, *unit.robot_id.encode()])
