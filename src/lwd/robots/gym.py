"""Any Gymnasium environment with Box actions as a `Robot`.

Environments are somebody else's code: whatever they raise, and whatever they return that is not what they promise, is a
fault of that robot with its reason.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gymnasium
import numpy as np

from lwd.driving import Driving, relative_driving
from lwd.errors import ConfigError, RobotFault
from lwd.matching import Match, match
from lwd.pictures import fitted
from lwd.robots.foreign import Foreign, as_array, shown
from lwd.robots.gym_actions import GymActions
from lwd.robots.gym_layout import ObservationLayout
from lwd.robots.gym_success import Step, SuccessTest, success_test
from lwd.types import ByteArray, Embodiment, FloatArray, Observation, Outcome, StepResult, Task, TokenSpec

DEFAULT_HZ = 20.0
MakeEnvironment = Callable[[Task], gymnasium.Env[Any, Any]]
T = TypeVar("T")
WRONG_SETTINGS = (TypeError, ValueError, LookupError, AssertionError, ImportError, gymnasium.error.Error)
"""What a constructor raises that would raise it again."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GymSettings:
    """What an environment does not say of itself."""

    name: str
    """Of the embodiment."""
    success: SuccessTest = field(default_factory=lambda: success_test(None))
    """Which of its steps did the task."""
    control_hz: float | None = None
    """None: the environment's render_fps, else 20."""
    failure_on_termination: bool = False
    """Whether an environment that terminates without success has failed; else the end is unknown (truncated)."""
    rendered: tuple[int, int] | None = None
    """(height, width) of a camera `render` made from the environment's own rendering; None: no such camera."""
    embodiment: Embodiment | None = None
    """What the run's file, or another robot of the kind, says that it is; None: what its spaces say."""
    driving: Callable[[Embodiment], Driving] = relative_driving
    """How a person drives it."""


class GymRobot:
    """One robot whose tasks are Gymnasium environments with the same spaces.

    Observations may be a Box (numbers: the state; a picture: a camera) or a Dict of those, nested as deep as they like:
    every vector becomes a state token, every picture a camera, named after its keys. Actions are a Box with one axis,
    of real or whole numbers (`lwd.robots.gym_actions`). Time limits are the task's: an environment's own truncation
    ends the episode as truncated (unknown). An environment that raised is closed and built anew at the next reset.
    """

    def __init__(self, make: MakeEnvironment, tasks: tuple[Task, ...], settings: GymSettings) -> None:
        """Build the first task's environment; the others are built when they are first reset.

        Where the settings have an embodiment and the environment cannot be built for a passing reason, it is tried
        again at the first reset.

        Raises:
            ConfigError: if it cannot be built with these settings, or its spaces cannot be used.
            RobotFault: if it cannot be built for another reason, and nothing else says what the robot is.
        """
        if not tasks:
            raise ConfigError("tasks are empty; a robot has at least one")
        self._make, self._settings, self._tasks = make, settings, {task.name: task for task in tasks}
        self._open: dict[str, _Opened] = {}
        self._known: Embodiment | None = settings.embodiment
        try:
            self._embodiment = self._opened(tasks[0]).embodiment
        except RobotFault as fault:
            if isinstance(fault.__cause__, WRONG_SETTINGS):
                raise ConfigError(f"{fault}: check the environment's arguments and packages") from fault
            if settings.embodiment is None:
                raise
            _logger.warning("%s; it is tried again at the first episode", fault)
            self._embodiment = settings.embodiment
        self._known = self._embodiment
        self._driving = settings.driving(self._embodiment)
        self._task: Task | None = None
        self._steps = 0
        self._outcome: Outcome | None = None
        self._raw: Any = None
        self._says_success = False
        self._warned: set[str] = set()

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def driving(self) -> Driving:
        return self._driving

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(self._tasks.values())

    def reset(self, task: Task, seed: int) -> Observation:
        """Reset the task's environment with the seed.

        Raises:
            ConfigError: if the task is none of this robot's.
            RobotFault: if its environment cannot be built or reset, has other spaces, or does not keep to them.
        """
        if task.name not in self._tasks:
            raise ConfigError(f"task {task.name!r} is not known; this robot's are: {', '.join(self._tasks)}")
        self._task, self._steps, self._outcome = None, 0, None
        try:
            environment = self._opened(task).environment
        except ConfigError as error:
            raise RobotFault(f"environment of task {task.name}: {error}") from error
        returned = self._call(task, "reset", lambda: environment.reset(seed=seed))
        self._call(task, "seeding the actions", lambda: environment.action_space.seed(seed))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise RobotFault(f"reset of task {task.name} returned {_form(returned)}; expected (observation, info)")
        observation = self._observe(task, returned[0])
        self._task = task
        return observation

    def step(self, action: FloatArray) -> StepResult:
        """Execute one action (A,); the result says what of it the environment was sent.

        Raises:
            RobotFault: if there is no episode, or the environment fails or returns what it must not.
        """
        if self._task is None or self._outcome is not None:
            raise RobotFault("the robot has no episode running; call reset(task, seed) before step(action)")
        task, opened = self._task, self._opened(self._task)
        sent = opened.actions.sent(opened.match.action_to_robot(action))
        # A copy: some environments change what they were given.
        executed = opened.match.action_from_robot(sent.astype(np.float32))
        step = _step(self._call(task, "step", lambda: opened.environment.step(sent)), task)
        self._steps += 1
        try:
            says = self._settings.success(step)
        except RobotFault as fault:
            raise RobotFault(f"step of task {task.name}: {fault}") from fault
        self._says_success = self._says_success or says is not None
        self._outcome = self._ending(task, bool(says), step)
        observation = self._observe(task, step.observation)
        return StepResult(
            observation=observation,
            outcome=self._outcome,
            sub_step_scores=(float(bool(says)),) * len(task.sub_steps),
            executed=None if np.array_equal(executed, action) else executed,
        )

    def hold(self) -> None:
        """Nothing to do: an environment advances in `step` alone, so it stands still."""

    def privileged(self) -> Mapping[str, Any]:
        """The environment's last observation as it gave it, and its task: what scripted experts read."""
        return {"raw": self._raw}

    def close(self) -> None:
        """Close every environment; what one raises is logged, and the others are closed."""
        while self._open:
            self._close(next(iter(self._open)))

    def _opened(self, task: Task) -> "_Opened":
        """Return a task's environment, built if it is not there.

        Raises:
            ConfigError: if its spaces cannot be used, or are not this robot's.
            RobotFault: if building it raises.
        """
        if task.name not in self._open:
            with Foreign(f"making the environment of task {task.name}"):
                environment = self._make(task)
            try:
                with Foreign(f"the environment of task {task.name}"):
                    opened = _Opened.of(environment, self._settings, self._known)
            except Exception:
                _close(environment, task.name)
                raise
            self._open[task.name] = opened
        return self._open[task.name]

    def _call(self, task: Task, what: str, call: Callable[[], T]) -> T:
        try:
            with Foreign(f"{what} of task {task.name}"):
                return call()
        except RobotFault:
            # What raised may be in any state: a new one at the next reset.
            self._task = None
            self._close(task.name)
            raise

    def _close(self, name: str) -> None:
        if (opened := self._open.pop(name, None)) is not None:
            _close(opened.environment, name)

    def _ending(self, task: Task, success: bool, step: Step) -> Outcome | None:
        outcome: Outcome | None = None
        if success:
            outcome = Outcome.SUCCESS
        elif step.terminated:
            outcome = Outcome.FAILURE if self._settings.failure_on_termination else Outcome.TRUNCATED
        elif self._steps >= task.time_limit:
            outcome = Outcome.TIME_LIMIT
        elif step.truncated:
            outcome = Outcome.TRUNCATED
        if outcome is not None and not self._says_success:
            self._warn(
                "success",
                f"task {task.name}: in a whole episode info had no {self._settings.success}; at the last step it had "
                f"{shown(', '.join(map(str, step.info))) or 'nothing'}: is --success right?",
            )
        return outcome

    def _observe(self, task: Task, raw: Any) -> Observation:
        self._raw = raw
        opened = self._opened(task)
        try:
            state, pictures = opened.layout.read(raw)
        except RobotFault as fault:
            raise RobotFault(f"task {task.name}: {fault}") from fault
        for name in opened.layout.leaving(state):
            self._warn(name, f"observation {name} of task {task.name} leaves the space that it states")
        if self._settings.rendered is not None:
            pictures["render"] = self._rendered(task, opened.environment)
        # Not every environment gives the sizes that its own spaces promise (gym-aloha does not).
        sizes = self._embodiment.cameras
        images = {name: fitted(picture, sizes[name]) for name, picture in opened.match.images(pictures).items()}
        return Observation(state=opened.match.state(state), images=images)

    def _rendered(self, task: Task, environment: gymnasium.Env[Any, Any]) -> ByteArray:
        what = f"render of task {task.name}"
        returned = self._call(task, "render", environment.render)
        if returned is None:
            raise RobotFault(f"{what} returned None; make it with render_mode='rgb_array'")
        picture = as_array(returned, what)
        if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
            raise RobotFault(f"{what} has shape {picture.shape} of {picture.dtype}; expected (height, width, 3) uint8")
        return picture

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _logger.warning("%s", text)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """An environment and how its spaces are read."""

    environment: gymnasium.Env[Any, Any]
    layout: ObservationLayout
    actions: GymActions
    embodiment: Embodiment
    """What the run's file says that the robot is, else what the spaces say."""
    match: Match

    @classmethod
    def of(cls, environment: gymnasium.Env[Any, Any], settings: GymSettings, known: Embodiment | None) -> "_Opened":
        """Read an environment's spaces, and match them with what is known of the robot.

        Raises:
            ConfigError: if they cannot be used, or do not fit.
        """
        layout, actions = ObservationLayout.of(environment.observation_space), GymActions.of(environment)
        found = _described(environment, layout, actions, settings, known)
        return cls(
            environment=environment,
            layout=layout,
            actions=actions,
            embodiment=known or found,
            match=match(known or found, found),
        )


def _described(
    environment: gymnasium.Env[Any, Any],
    layout: ObservationLayout,
    actions: GymActions,
    settings: GymSettings,
    known: Embodiment | None,
) -> Embodiment:
    """Return the robot that the spaces describe; limits that they leave open are those of the known one."""
    low, high = actions.low, actions.high
    if not actions.is_bounded:
        if known is None or known.action_size != len(low):
            raise ConfigError(
                f"actions of {settings.name} are not bounded: give its action space limits by a wrapper, or import "
                "demonstrations first (RUN/embodiment.json has the limits then)"
            )
        low, high = known.action_low, known.action_high
    cameras = {picture.name: picture.size for picture in layout.pictures}
    if settings.rendered is not None:
        cameras["render"] = settings.rendered
    stated_hz = settings.control_hz or environment.metadata.get("render_fps")
    # One that does not say how fast it is fits every run.
    otherwise_hz = DEFAULT_HZ if known is None else known.control_hz
    return Embodiment(
        name=settings.name,
        control_hz=float(stated_hz or otherwise_hz),
        state_tokens=tuple(TokenSpec(name=vector.name, size=vector.size) for vector in layout.vectors),
        action_low=low,
        action_high=high,
        cameras=cameras,
    )


def _step(returned: Any, task: Task) -> Step:
    """Return what `step` returned, if it is what Gymnasium's must."""
    if not isinstance(returned, tuple) or len(returned) != 5:
        raise RobotFault(
            f"step of task {task.name} returned {_form(returned)}; expected "
            "(observation, reward, terminated, truncated, info)"
        )
    observation, reward, terminated, truncated, info = returned
    if not isinstance(info, Mapping):
        raise RobotFault(f"step of task {task.name} returned info {_form(info)}; expected a dict")
    return Step(
        observation=observation,
        reward=reward,
        terminated=_flag(terminated, f"terminated of task {task.name}"),
        truncated=_flag(truncated, f"truncated of task {task.name}"),
        info=info,
    )


def _flag(value: Any, what: str) -> bool:
    array = as_array(value, what)
    if array.size != 1:
        raise RobotFault(f"{what} has shape {array.shape}; expected one bool (one environment at a time)")
    return bool(array.reshape(()))


def _form(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _close(environment: gymnasium.Env[Any, Any], name: str) -> None:
    try:
        with Foreign(f"closing the environment of task {name}"):
            environment.close()
    except RobotFault as fault:
        _logger.warning("%s", fault)
