"""Any LeRobot robot as a `Robot`: cameras, joints in LeRobot's units, control rate, faults.

State and action are LeRobot's features, as in the datasets that LeRobot records from the same robot, matched by name:
all numbers of an observation are the state, all arrays of three channels its cameras. Units stay LeRobot's (degrees or
percent of the calibrated range), so an embodiment derived from such a dataset has its limits in them, too.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from lerobot.robots import Robot as Device
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lwd.driving import Driving, drive_axis
from lwd.errors import ConfigError, ResetInterrupted, RobotFault
from lwd.lerobot_parts import NotCalibrated, has_lever, name_of
from lwd.pictures import fitted
from lwd.robots.lerobot_driver import LeRobotDriver
from lwd.robots.limits import checked_action
from lwd.robots.pacing import Pacer
from lwd.types import ByteArray, Embodiment, FloatArray, Observation, Outcome, StepResult, Task

_VELOCITY = re.compile(r"\.(vel|vx|vy|vtheta)$|^delta_")
"""LeRobot's names of columns that are no positions: wheels, and differences of a hand's."""
_GRIPPER = re.compile(r"gripper")
"""LeRobot's names of columns that keep their last command when the robot is held."""
CONNECT_TRIES = 3
CONNECT_PAUSE_S = 1.0
"""Between two tries to connect: a camera or a bus needs a moment after it was closed."""
_HOME_WITHIN = 0.05
"""Part of a column's range by which a robot that is at home may be beside it."""
_SETTLES_WITHIN_S = 2.0

_logger = logging.getLogger(__name__)


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    instructions: tuple[str, ...] = Field(min_length=1)
    time_limit_s: float = Field(gt=0)


class LeRobotConfig(BaseModel):
    """The file of `lwd robot --lerobot-config`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    robot: dict[str, Any] = Field(default_factory=dict)
    """LeRobot's own configuration of the robot: port, id, cameras, max_relative_target, ..."""
    teleoperator: dict[str, Any] | None = None
    """LeRobot's own configuration of whoever may take over, with its `type`; None: nobody."""
    events: dict[str, Any] | None = None
    """The device that says how episodes end, where the teleoperator cannot (leader arms); None: it can."""
    tasks: tuple[_Task, ...] = Field(min_length=1)
    home: tuple[float, ...] | None = None
    """Action that begins every episode, reached slowly; None: episodes begin where the robot stands."""
    home_s: float = Field(default=3.0, gt=0)
    """How long the robot takes to get there."""
    home_spread: float = Field(default=0.0, ge=0)
    """Half width of what is added to `home` at random, in action units: varied starts make better data."""
    pause_s: float = Field(default=0.0, ge=0)
    """Rest before every episode, for whoever puts the scene in order."""
    drive_speeds: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """How fast an operator at the console drives columns of the action, in their units per second; without: a quarter
    of the range per second (a velocity: half the largest one)."""

    on_fault: Literal["hold", "release"] = "hold"
    """What the motors do after a fault of the robot or of its teleoperator: stay where they are, with torque, or let go
    (the robot is disconnected)."""
    on_exit: Literal["home", "hold", "release"] = "home"
    """What they do when the host ends: the robot goes to `home` slowly and lets go there; they keep their torque; or
    they let go where they are. Without `home`, where somebody stopped or holds the robot, after a fault, and where it
    does not get there, `home` is `hold`."""

    @model_validator(mode="after")
    def _heed_lerobots_own(self) -> Self:
        # Of a file from before there was on_exit: motors that were not to let go do not.
        if self.robot.get("disable_torque_on_disconnect") is False and "on_exit" not in self.model_fields_set:
            object.__setattr__(self, "on_exit", "hold")
        return self

    def tasks_at(self, control_hz: float) -> tuple[Task, ...]:
        """Return the tasks with their limits in control steps."""
        return tuple(
            Task(
                name=task.name,
                instructions=task.instructions,
                heldout_instructions=(),
                sub_steps=(),
                time_limit=max(1, round(task.time_limit_s * control_hz)),
                long_horizon=True,
            )
            for task in self.tasks
        )


def read_config(path: Path) -> LeRobotConfig:
    """Read the configuration of a robot from JSON.

    Raises:
        ConfigError: if it cannot be read or a field is wrong.
    """
    try:
        return LeRobotConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"robot configuration {path} cannot be read ({error.strerror}): check the path") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"robot configuration {path}: {field} is wrong ({first['msg']}): correct it") from error


class LeRobotRobot:
    """One LeRobot robot at a fixed control rate.

    `step` sends the action, waits for the end of the control period and observes; periods follow each other without a
    gap, so time that the caller takes is part of them. Nobody but an operator knows whether a task is done: episodes
    end with the operator's label or at the time limit.
    """

    def __init__(
        self,
        device: Device,
        embodiment: Embodiment,
        config: LeRobotConfig,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect nothing yet: the first reset does.

        Raises:
            ConfigError: if the robot's features do not fit the embodiment.
        """
        self._embodiment, self._config = embodiment, config
        self._driver = LeRobotDriver(device, embodiment)
        self.pacer = Pacer(embodiment.control_hz, clock=clock, sleep=sleep)
        if config.home is not None and len(config.home) != embodiment.action_size:
            raise ConfigError(f"home has {len(config.home)} numbers; the action has {embodiment.action_size}")
        self._driving = self._describe()
        self.interrupted: Callable[[], bool] = lambda: False
        """Asked at each control step on the way to a start, and of the rest before it (`HomingRobot`)."""
        self._task: Task | None = None
        self._steps = 0
        self._outcome: Outcome | None = None
        self._is_parked = False
        if not has_lever(device):
            _logger.warning(
                "LeRobot's %s has no setting of what its motors do without a connection: on_fault and on_exit only "
                "decide when it is disconnected, and whether it goes home before",
                name_of(device),
            )

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def driving(self) -> Driving:
        return self._driving

    @property
    def tells_success(self) -> bool:
        """False: the arm does not see what it has done."""
        return False

    @property
    def action_names(self) -> tuple[str, ...]:
        """LeRobot's names of the action's columns, in the embodiment's order."""
        return self._driver.actions

    def reset(self, task: Task, seed: int) -> Observation:
        """Connect if necessary (three times at most, with a pause), go home, rest, and observe.

        Raises:
            ResetInterrupted: if `interrupted` says so, or another thread holds the robot; it holds.
            RobotFault: if the robot does not answer.
        """
        self._task, self._is_parked = None, False
        self._connect()
        if self._config.home is not None:
            spread = np.random.default_rng(seed).uniform(-1, 1, self._embodiment.action_size)
            self._go((np.asarray(self._config.home) + self._config.home_spread * spread).astype(np.float32))
        self._rest(self._config.pause_s)
        self._task, self._steps, self._outcome = task, 0, None
        observation = self._observe()
        self.pacer.begin()
        return observation

    def step(self, action: FloatArray) -> StepResult:
        """Execute one action (A,) for one control period.

        Raises:
            RobotFault: if there is no episode, or the robot does not answer.
        """
        if self._task is None or self._outcome is not None:
            raise RobotFault("the robot has no episode running; call reset(task, seed) before step(action)")
        try:
            executed = self._driver.send(action)
            self.pacer.wait()
            observation = self._observe()
        except RobotFault:
            self._outcome = Outcome.TRUNCATED
            raise
        self._steps += 1
        if self._steps >= self._task.time_limit:
            self._outcome = Outcome.TIME_LIMIT
        return StepResult(
            observation=observation, outcome=self._outcome, sub_step_scores=(0.0,) * len(self._task.sub_steps),
            executed=executed,
        )  # fmt: skip

    def observe(self) -> Observation:
        """Return what the robot measures and sees now.

        Raises:
            RobotFault: if it does not answer.
        """
        return self._observe()

    def hold(self) -> None:
        """Send what stands still: wheels 0, joints where they are measured, the gripper its last command.

        Raises:
            RobotFault: if the robot does not answer, or a call of its driver hangs.
        """
        self._driver.hold(self._driving)

    def privileged(self) -> Mapping[str, Any]:
        return {}

    def failed(self) -> None:
        """After a fault: let go, if `on_fault` says so. Else the robot holds, with torque."""
        if self._config.on_fault == "release":
            self._driver.let_go()

    def park(self) -> None:
        """Go home slowly, if `on_exit` says so, for `close` to let go there.

        Raises:
            ResetInterrupted: if `interrupted` says so, or another thread holds the robot; it holds.
            RobotFault: if it does not answer, or does not get there.
        """
        if self._config.on_exit != "home" or self._config.home is None or not self._driver.was_moved:
            return
        home_A = np.asarray(self._config.home, np.float32)
        self._task = None
        self._driver.connect()
        self._go(home_A)
        left, holds = round(_SETTLES_WITHIN_S * self._embodiment.control_hz), self._driver.holds
        while (away := self._away_from(home_A)) and left:
            if self.interrupted() or not self._driver.send_unless_held(home_A, holds):
                self.hold()
                raise ResetInterrupted(f"{self._driver.device.name} holds on the way home")
            self.pacer.wait()
            left -= 1
        if away:
            raise RobotFault(f"{name_of(self._driver.device)} does not get home: {', '.join(away)} is elsewhere")
        self._is_parked = True

    def close(self) -> None:
        """Hold and disconnect every part; the motors do what `on_exit` says. Errors are logged."""
        how = self._config.on_exit
        # What connecting turned on of a robot that was never moved goes off again.
        as_found = how == "home" and self._driver.stands_as_found
        let_go = how == "release" or self._is_parked or as_found
        if not let_go and self._driver.was_moved:
            _logger.warning(
                "%s is left holding, its motors keep their torque%s: to let go, support it and switch its power off",
                name_of(self._driver.device),
                "" if how == "hold" else " (it is not at a home position)",
            )
        self._driver.close(self._driving, let_go=let_go)

    def _describe(self) -> Driving:
        """Positions are driven from where they are measured."""
        speeds = self._config.drive_speeds
        if unknown := sorted(speeds.keys() - set(self._driver.actions)):
            raise ConfigError(f"drive_speeds names {unknown[0]!r}; the action has {', '.join(self._driver.actions)}")
        limits = zip(self._driver.actions, self._embodiment.action_low, self._embodiment.action_high, strict=True)
        axes = []
        for name, low, high in limits:
            absolute = not _VELOCITY.search(name)
            measured = self._driver.joints.index(name) if absolute and name in self._driver.joints else None
            label = name.removesuffix(".pos").replace("_", " ")
            keeps = absolute and bool(_GRIPPER.search(name))
            speed = speeds.get(name)
            axes.append(drive_axis(label, low, high, absolute=absolute, speed=speed, measured=measured, keeps=keeps))
        return Driving(control_hz=self._embodiment.control_hz, axes=tuple(axes))

    def _go(self, target_A: FloatArray) -> None:
        """Move to an action over `home_s`, in a straight line from where the joints are."""
        target_A = checked_action(target_A, self._embodiment)
        state_S, _ = self._driver.observe()
        seen = dict(zip(self._driver.joints, map(float, state_S), strict=True))
        start_A = np.array([seen.get(name, goal) for name, goal in zip(self.action_names, target_A, strict=True)])
        steps = max(1, round(self._config.home_s * self._embodiment.control_hz))
        holds = self._driver.holds
        self.pacer.begin()
        for part in np.linspace(0, 1, steps + 1)[1:]:
            if self.interrupted():
                self.hold()
            if not self._driver.send_unless_held(start_A + part * (target_A - start_A), holds):
                raise ResetInterrupted(f"{self._driver.device.name} holds on the way home")
            self.pacer.wait()
            # So that a hold on the way knows where the joints are.
            self._driver.observe()

    def _rest(self, seconds: float) -> None:
        holds = self._driver.holds
        for _ in range(round(seconds * self._embodiment.control_hz)):
            if self.interrupted() or self._driver.holds != holds:
                self.hold()
                raise ResetInterrupted(f"{self._driver.device.name} holds before its episode")
            self.pacer.rest(1 / self._embodiment.control_hz)

    def _connect(self) -> None:
        for _ in range(CONNECT_TRIES - 1):
            try:
                self._driver.connect()
            except NotCalibrated:
                raise
            except RobotFault as error:
                _logger.warning("%s; all of it is closed, and tried again in %g s", error, CONNECT_PAUSE_S)
                self._rest(CONNECT_PAUSE_S)
            else:
                return
        self._driver.connect()

    def _away_from(self, goal_A: FloatArray) -> list[str]:
        """Return the columns of positions that are not where they were sent."""
        state_S, _ = self._driver.observe()
        limits = zip(self._embodiment.action_low, self._embodiment.action_high, strict=True)
        return [
            name
            for name, axis, goal, (low, high) in zip(self.action_names, self._driving.axes, goal_A, limits, strict=True)
            if axis.absolute and axis.measured is not None and not axis.keeps
            and abs(float(state_S[axis.measured]) - goal) > _HOME_WITHIN * (high - low)
        ]  # fmt: skip

    def _observe(self) -> Observation:
        state_S, seen = self._driver.observe()
        sizes = self._embodiment.cameras
        images = {name: _picture(seen[theirs], sizes[name]) for name, theirs in self._driver.cameras.items()}
        return Observation(state=state_S, images=images)


def _picture(frame: Any, size: tuple[int, int]) -> ByteArray:
    """Return a camera's frame at the embodiment's (height, width)."""
    try:
        return fitted(frame, size)
    except ValueError as error:
        raise RobotFault(f"a camera gives what no camera should: {error}") from error
