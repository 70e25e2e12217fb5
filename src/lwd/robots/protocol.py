"""What LWD asks of a robot, real or simulated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lwd.driving import Driving, relative_driving
from lwd.types import Embodiment, FloatArray, Observation, StepResult, Task


class Robot(Protocol):
    """One robot. `reset` and `step` block for as long as the hardware needs.

    One thread steps a robot. Any other thread may call `hold`, and nothing else, at any time: also during `step`,
    `reset` and `close`.
    """

    @property
    def embodiment(self) -> Embodiment:
        """The robot's state layout, cameras and action limits."""

    def reset(self, task: Task, seed: int) -> Observation:
        """Bring robot and scene to a random start of the task; the same seed gives the same start."""

    def step(self, action: FloatArray) -> StepResult:
        """Execute one action (A,) float32 for one control period.

        It is finite and within the embodiment's limits: `EpisodeSession` sees to it for whoever acts, so drivers check
        and clip nothing themselves. A driver's own way to the hardware without a session (going to a start, holding)
        uses `lwd.robots.limits`.

        Raises:
            RobotFault: if there is no episode, or the robot does not answer.
        """

    def hold(self) -> None:
        """Stand still now, whatever was sent before: velocities and differences become 0, positions what is measured.

        A gripper, or another axis that keeps what it is told, keeps its last command. Where nothing can be measured the
        last measurement counts. Idempotent: repeated before the next `step`, it sends the same again. A robot that
        was sent nothing yet is sent nothing. A simulation stands still between two steps anyway; what it was sent and
        has not executed yet is dropped.

        Never ends or begins an episode. Blocks for one transaction of the driver at most, and half a second for a
        transaction of another thread.

        Raises:
            RobotFault: if the robot does not answer; it may move on, and whoever called says so.
        """

    def privileged(self) -> Mapping[str, Any]:
        """What a simulator knows beyond the observation (for scripted experts); empty on real robots."""

    def close(self) -> None:
        """Release the hardware or the simulator."""


@dataclass(frozen=True, kw_only=True)
class BodyPoses:
    """Where the bodies of a robot and its scene are, for whoever draws them."""

    poses_N7: FloatArray
    """Per body x, y, z in m and the quaternion w, x, y, z, in the world's frame."""
    lamps: int = 0
    """Bit i: the scene's lamp i is lit (what it is, the scene's description says)."""


@runtime_checkable
class PosedRobot(Protocol):
    """A robot that can be drawn elsewhere, from the poses of its bodies."""

    def body_poses(self) -> BodyPoses:
        """Return the poses as of the last step."""


@runtime_checkable
class DrivenRobot(Protocol):
    """A robot that says how a person drives it by hand."""

    @property
    def driving(self) -> Driving:
        """What deflections do to its action."""


@runtime_checkable
class ObservingRobot(Protocol):
    """A robot that can be observed between two steps: a real one moves on, and so does what stands before it."""

    def observe(self) -> Observation:
        """Return what it perceives now.

        Raises:
            RobotFault: if it does not answer.
        """


@runtime_checkable
class HomingRobot(Protocol):
    """A robot that moves to its start in `reset`, under the hands of whoever stands there."""

    interrupted: Callable[[], bool]
    """Set by whoever resets it; asked at each control step on the way. Once true, the robot holds, and `reset` raises
    `ResetInterrupted`. So it does when another thread calls `hold` on the way."""


@runtime_checkable
class JudgingRobot(Protocol):
    """A robot that says whether it can tell by itself that a task is done. One that does not say so can."""

    @property
    def tells_success(self) -> bool:
        """Whether its steps end with success where the task is done; if not, only a person's label says so."""


def tells_success(robot: Robot) -> bool:
    """Return whether a robot has a success test of its own."""
    return robot.tells_success if isinstance(robot, JudgingRobot) else True


def no_success_test(robots: str) -> str:
    """Return the warning about robots without a success test, with the three ways to get one.

    Args:
        robots: how the message names them, such as `robot arm-0`.
    """
    return (
        f"{robots} cannot tell that a task is done: an episode that reaches its time limit without a label counts as "
        "failed, and the critic learns that. Three ways to say success: (1) the events of a LeRobot device (`events` "
        "or `teleoperator` of --lerobot-config, or `lwd operator --teleop`); (2) a person at the console (`lwd "
        "console`, keys 1 and 2); (3) for an environment, its own test (`lwd robot --gym ID --success KEY`)"
    )


@runtime_checkable
class SettledRobot(Protocol):
    """A robot whose settings say what its motors do after a fault, and when its host ends."""

    def failed(self) -> None:
        """Do what the settings say after a fault, of the robot or of whoever may take it over. It holds already."""

    def park(self) -> None:
        """Go to where `close` may let go, if the settings say so; called before `close`, where nobody holds the robot.

        Raises:
            ResetInterrupted: as `reset`.
            RobotFault: if it does not get there; then `close` does not let go.
        """


def driving_of(robot: Robot) -> Driving:
    """Return how a robot is driven by hand: by relative numbers, if it does not say."""
    return robot.driving if isinstance(robot, DrivenRobot) else relative_driving(robot.embodiment)
