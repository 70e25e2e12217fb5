"""What stands between everybody who moves a robot and whoever stops it from another thread."""

from collections.abc import Callable
from typing import TypeVar

from lwd.errors import RobotStopped
from lwd.robots.protocol import Robot
from lwd.types import FloatArray, Observation, StepResult, Task

T = TypeVar("T")


class Gate:
    """Lets a robot's thread pass to `step` and `reset` while nobody says no; any other thread may call `hold`.

    There is no lock, because a step may hang, and who holds the robot must not wait for it. Two orders are possible:

    - The one who stops says no before the robot's thread asks: nothing is sent.
    - The robot's thread asks first: its command is on its way, before or after the other thread's `hold`. When the
      command returns, the robot's thread asks once more, is told no, and holds again. So whatever was sent, the last
      thing that the robot hears is a hold, one control period after the first at most, and no second command follows.

    A command that never returns is the driver's to end; `holds` stays false then.
    """

    def __init__(self, robot: Robot, why: Callable[[], str] = lambda: "") -> None:
        """
        Args:
            why: why no command may pass now; empty: it may. Asked by the robot's thread before and after each command.
        """
        self._robot = robot
        self._why = why
        self._inside = False
        self._held = False
        self.error = ""
        """Why the last hold failed."""

    @property
    def holds(self) -> bool:
        """Whether a hold succeeded since the last command, and none is on its way."""
        return self._held and not self._inside

    def step(self, action: FloatArray) -> StepResult:
        """`Robot.step`, if it may.

        Raises:
            RobotStopped: if no command may pass; the robot holds.
        """
        return self._pass(lambda: self._robot.step(action))

    def reset(self, task: Task, seed: int) -> Observation:
        """`Robot.reset`, if it may.

        Raises:
            RobotStopped: if no command may pass, or none might any more when the robot was reset; it holds.
        """
        observation = self._pass(lambda: self._robot.reset(task, seed))
        if why := self._why():
            raise RobotStopped(why)
        return observation

    def hold(self) -> bool:
        """`Robot.hold`, by any thread. Returns whether it succeeded; `error` says why not."""
        try:
            self._robot.hold()
        except (Exception, SystemExit) as error:  # of a driver, nearly anything; who stops others must not end with one
            self.error = str(error) or type(error).__name__
            return False
        self.error = ""
        self._held = True
        return True

    def _pass(self, command: Callable[[], T]) -> T:
        self._inside, self._held = True, False
        try:
            if why := self._why():
                raise RobotStopped(why)
            return command()
        finally:
            # Not what another thread's hold left: the command may have been sent after it.
            self._held = self._inside = False
            if self._why():
                self.hold()
