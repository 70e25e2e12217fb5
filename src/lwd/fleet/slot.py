"""A robot of a host and its present episode."""

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lwd.errors import ConfigError, LWDError, ResetInterrupted, RobotFault
from lwd.fleet.console_link import ConsoleLink
from lwd.fleet.edge_settings import EdgeSettings, FleetRobot
from lwd.fleet.messages import AxisStatus, RobotStatus
from lwd.fleet.release import LoadedPolicy
from lwd.fleet.views import scene_of
from lwd.operators.remote import RemoteOperator
from lwd.robots.gate import Gate
from lwd.robots.holding import Holder
from lwd.robots.protocol import HomingRobot, PosedRobot, SettledRobot, driving_of
from lwd.robots.session import EpisodeSession
from lwd.types import Episode, Source, Task

TRAINING_SEEDS = 2**30
"""Seeds of the fleet lie in [0, 2^30); evaluation uses the ones above."""

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
    unwell: bool = False
    """Whether it failed and has begun no episode since: nobody knows how it stands."""
    was_reset: bool = False
    """Whether an episode of it has begun: from then on no error of its ends the host."""
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
    def may_wait(self) -> bool:
        """Whether the robot waits for a person after a fault: a real one that somebody can take over."""
        return self.unit.is_real and self.remote is not None

    @property
    def rolls(self) -> bool:
        """Whether the robot goes on moving while nothing is sent: a real one whose action is a velocity."""
        return self.unit.is_real and any(not axis.absolute for axis in driving_of(self.unit.robot).axes)

    @contextlib.contextmanager
    def its_fault(self) -> Iterator[None]:
        """Whatever a robot or its operator raises is a fault of that robot, and not the end of its host.

        Raises:
            ConfigError: one of ours, at its first start.
            RobotFault: everything else.
        """
        try:
            yield
        except RobotFault:
            raise
        except (Exception, SystemExit) as error:  # of foreign devices and environments, nearly anything
            if isinstance(error, ConfigError) and not self.was_reset:
                raise
            if not isinstance(error, LWDError):
                _logger.exception("robot %s", self.unit.robot_id)
            raise RobotFault(f"{type(error).__name__}: {error}") from error

    def begin(self, settings: EdgeSettings, policy: LoadedPolicy, gate: Gate) -> None:
        """Begin an episode; a device that may take the robot over is connected before it moves.

        Raises:
            ConfigError: as `its_fault`.
            RobotFault: if robot or operator fail; there is no episode then.
        """
        task, unit = self.next_task(settings), self.unit
        self.begun += 1
        with self.its_fault():
            if self.remote is not None:
                self.remote.connect()
            self.session = EpisodeSession(
                unit.robot,
                task,
                str(self.random.choice(task.instructions)),
                seed=int(self.random.integers(TRAINING_SEEDS)),
                robot_id=unit.robot_id,
                source=Source.FLEET,
                policy_version=policy.version,
                world=unit.world,
                operator=unit.operator,
                gate=gate,
                # In the order in which the robot recorded them, also across its restarts; unique by the last part,
                # for a robot that goes on with another machine's empty spool.
                episode_id=f"{unit.start:06d}-{self.begun:06d}-{uuid.uuid4().hex[:16]}",
            )
        self.policy, self.was_reset, self.unwell = policy, True, False

    def truncated(self) -> Episode | None:
        """Return what its episode recorded so far; None: nothing."""
        if self.session is None or self.session.steps == 0:
            return None
        try:
            return self.session.truncate()
        except Exception:
            # Of what a foreign robot said no episode can be made: no reason to end the host.
            _logger.exception("robot %s: episode %s cannot be kept", self.unit.robot_id, self.session.episode_id)
            return None

    def failed(self) -> None:
        """After a fault the robot does what its settings say; without any it holds."""
        if isinstance(self.unit.robot, SettledRobot):
            try:
                with self.its_fault():
                    self.unit.robot.failed()
            except RobotFault as error:
                _logger.error("robot %s: %s", self.unit.robot_id, error)

    def park(self, interrupted: Callable[[], bool]) -> None:
        """The host ends: the robot does what its settings say, unless it is held, stopped or has failed; then it holds.

        Args:
            interrupted: whether it must hold on its way.
        """
        robot, robot_id = self.unit.robot, self.unit.robot_id
        if not isinstance(robot, SettledRobot):
            return
        if self.unwell or interrupted() or not self.may_begin:
            _logger.info("robot %s goes nowhere: somebody holds it, or it had a fault", robot_id)
            return
        if isinstance(robot, HomingRobot):
            robot.interrupted = lambda: interrupted() or not self.may_begin
        try:
            with self.its_fault():
                robot.park()
        except ResetInterrupted as error:
            _logger.warning("robot %s: %s", robot_id, error)
        except (ConfigError, RobotFault) as error:
            _logger.error("robot %s: %s", robot_id, error)

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

    def wait_for_person(self) -> None:
        """Begin no episode until somebody took the robot over and lets it begin, or hands it back."""
        _logger.error(
            "robot %s waits for a person: take it over at the console, then let it begin or hand it back (without a "
            "console: start its host again)",
            self.unit.robot_id,
        )
        if self.remote is not None:
            self.remote.wait_for_person("it had a fault: look at it, then let it begin or hand it back")

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
