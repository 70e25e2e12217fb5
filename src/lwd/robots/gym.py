"""Any Gymnasium environment with Box actions as a `Robot`.

The environment's reward is not used: success is what its `info` says under a key, as in all our data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from lwd.driving import Driving, relative_driving
from lwd.errors import ConfigError, RobotFault
from lwd.matching import Match, match
from lwd.types import ByteArray, Embodiment, FloatArray, Observation, Outcome, StepResult, Task, TokenSpec

SUCCESS_KEYS = ("is_success", "success")
"""Where environments commonly say that the task is done."""
DEFAULT_HZ = 20.0
MakeEnvironment = Callable[[Task], gymnasium.Env[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class GymSettings:
    """What an environment does not say of itself."""

    name: str
    """Of the embodiment."""
    success: str | None = None
    """Key of `info`; None: is_success or success, whichever is there."""
    control_hz: float | None = None
    """None: the environment's render_fps, else 20."""
    failure_on_termination: bool = False
    """Whether an environment that terminates without success has failed; else the end is unknown (truncated)."""
    rendered: tuple[int, int] | None = None
    """(height, width) of a camera `render` made from the environment's own rendering; None: no such camera."""
    embodiment: Embodiment | None = None
    """What the run's file says that the robot is; None: what its spaces say."""
    driving: Callable[[Embodiment], Driving] = relative_driving
    """How a person drives it."""


class GymRobot:
    """One robot whose tasks are Gymnasium environments with the same spaces.

    Observations may be a Box (a vector of numbers: the state; (height, width, 3) uint8: a picture) or a Dict of those,
    nested as deep as they like: every vector becomes a state token, every picture a camera, named after its keys.
    Time limits are the task's: an environment's own truncation ends the episode as truncated (unknown).
    """

    def __init__(self, make: MakeEnvironment, tasks: tuple[Task, ...], settings: GymSettings) -> None:
        """Build the first task's environment; the others are built when they are first reset.

        Raises:
            ConfigError: if its spaces cannot be used.
        """
        if not tasks:
            raise ConfigError("tasks are empty; a robot has at least one")
        self._make, self._settings, self._tasks = make, settings, {task.name: task for task in tasks}
        self._environments: dict[str, gymnasium.Env[Any, Any]] = {}
        first = self._environment(tasks[0])
        self._layout = _Layout.of(first.observation_space)
        found = _embodiment(first, self._layout, settings)
        self._embodiment = settings.embodiment or found
        self._match = _fitting(self._embodiment, found, first, settings)
        self._driving = settings.driving(self._embodiment)
        self._task: Task | None = None
        self._steps = 0
        self._outcome: Outcome | None = None
        self._observation: Observation
        self._raw: Any = None

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
            ConfigError: if the task is none of this robot's, or its environment has other spaces.
        """
        if task.name not in self._tasks:
            raise ConfigError(f"task {task.name!r} is not known; this robot's are: {', '.join(self._tasks)}")
        environment = self._environment(task)
        if (space := _action_space(environment)).shape != (self._embodiment.action_size,):
            raise ConfigError(f"task {task.name!r} has actions of shape {space.shape}; one robot has one action space")
        raw, _ = environment.reset(seed=seed)
        environment.action_space.seed(seed)
        self._task, self._steps, self._outcome = task, 0, None
        self._observation = self._observe(raw)
        return self._observation

    def step(self, action: FloatArray) -> StepResult:
        """Execute one action (A,).

        Raises:
            RobotFault: if there is no episode, or the environment fails or leaves the finite numbers.
        """
        if self._task is None or self._outcome is not None:
            raise RobotFault("the robot has no episode running; call reset(task, seed) before step(action)")
        environment = self._environment(self._task)
        try:
            sent = self._match.action_to_robot(action).astype(_action_space(environment).dtype)
            raw, _, terminated, truncated, info = environment.step(sent)
        except Exception as error:  # whatever a foreign environment raises
            raise RobotFault(
                f"environment of task {self._task.name} failed: {type(error).__name__}: {error}"
            ) from error
        self._steps += 1
        success = self._success(info)
        self._outcome = self._ending(success, bool(terminated), bool(truncated))
        self._observation = self._observe(raw)
        return StepResult(
            observation=self._observation,
            outcome=self._outcome,
            sub_step_scores=(float(success),) * len(self._task.sub_steps),
        )

    def hold(self) -> None:
        """Nothing to do: an environment advances in `step` alone, so it stands still."""

    def privileged(self) -> Mapping[str, Any]:
        """The environment's last observation as it gave it, and its task: what scripted experts read."""
        return {"raw": self._raw}

    def close(self) -> None:
        while self._environments:
            self._environments.popitem()[1].close()

    def _environment(self, task: Task) -> gymnasium.Env[Any, Any]:
        if task.name not in self._environments:
            self._environments[task.name] = self._make(task)
        return self._environments[task.name]

    def _success(self, info: Mapping[str, Any]) -> bool:
        keys = SUCCESS_KEYS if self._settings.success is None else (self._settings.success,)
        found = next((info[key] for key in keys if key in info), None)
        if found is None:
            raise RobotFault(
                f"info of {self._embodiment.name} has no {' or '.join(keys)} (it has: {', '.join(info) or 'nothing'}): "
                "name its key with --success"
            )
        return _number(found) > 0

    def _ending(self, success: bool, terminated: bool, truncated: bool) -> Outcome | None:
        if success:
            return Outcome.SUCCESS
        if terminated:
            return Outcome.FAILURE if self._settings.failure_on_termination else Outcome.TRUNCATED
        if self._task is not None and self._steps >= self._task.time_limit:
            return Outcome.TIME_LIMIT
        return Outcome.TRUNCATED if truncated else None

    def _observe(self, raw: Any) -> Observation:
        self._raw = raw
        state, pictures = self._layout.read(raw)
        # Not every environment gives the sizes that its own spaces promise (gym-aloha does not).
        if self._settings.rendered is not None and self._task is not None:
            rendered: Any = self._environment(self._task).render()
            pictures["render"] = rendered
        sizes = self._embodiment.cameras
        images = {name: _fitted(picture, sizes[name]) for name, picture in self._match.images(pictures).items()}
        if not np.isfinite(state).all():
            raise RobotFault(f"an observation of {self._embodiment.name} is not finite: the simulation is lost")
        return Observation(state=self._match.state(state), images=images)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where an observation's vectors and pictures are, by the keys that lead there."""

    vectors: tuple[tuple[tuple[str, ...], int], ...]
    pictures: tuple[tuple[tuple[str, ...], tuple[int, int]], ...]

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> "_Layout":
        vectors: list[tuple[tuple[str, ...], int]] = []
        pictures: list[tuple[tuple[str, ...], tuple[int, int]]] = []

        def visit(part: spaces.Space[Any], keys: tuple[str, ...]) -> None:
            if isinstance(part, spaces.Dict):
                for name, inner in part.spaces.items():
                    visit(inner, (*keys, name))
            elif isinstance(part, spaces.Box) and part.dtype == np.uint8 and len(part.shape) == 3:
                if part.shape[-1] != 3:
                    raise ConfigError(f"picture {'.'.join(keys)} has shape {part.shape}; expected (height, width, 3)")
                pictures.append((keys, (part.shape[0], part.shape[1])))
            elif isinstance(part, spaces.Box):
                vectors.append((keys, int(np.prod(part.shape))))
            else:
                raise ConfigError(
                    f"observation {'.'.join(keys)} is a {type(part).__name__}; only Box and Dict are known"
                )

        visit(space, ())
        if not vectors:
            raise ConfigError(
                "the environment observes no vector of numbers; choose an observation with the robot's state, such as "
                "obs_type=pixels_agent_pos"
            )
        return cls(vectors=tuple(vectors), pictures=tuple(pictures))

    def read(self, raw: Any) -> tuple[FloatArray, dict[str, ByteArray]]:
        state = np.concatenate([np.ravel(_at(raw, keys)) for keys, _ in self.vectors]).astype(np.float32)
        return state, {_name(keys, "image"): np.asarray(_at(raw, keys)) for keys, _ in self.pictures}


def _at(raw: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        raw = raw[key]
    return raw


def _name(keys: tuple[str, ...], alone: str) -> str:
    return ".".join(keys) or alone


def _embodiment(environment: gymnasium.Env[Any, Any], layout: _Layout, settings: GymSettings) -> Embodiment:
    space = _action_space(environment)
    if not np.isfinite(space.low).all() or not np.isfinite(space.high).all():
        raise ConfigError(
            f"actions of {settings.name} are not bounded; wrap it in gymnasium's RescaleAction or ClipAction"
        )
    cameras = {_name(keys, "image"): size for keys, size in layout.pictures}
    if settings.rendered is not None:
        cameras["render"] = settings.rendered
    return Embodiment(
        name=settings.name,
        control_hz=settings.control_hz or float(environment.metadata.get("render_fps") or DEFAULT_HZ),
        state_tokens=tuple(TokenSpec(name=_name(keys, "state"), size=size) for keys, size in layout.vectors),
        action_low=tuple(space.low.astype(float).tolist()),
        action_high=tuple(space.high.astype(float).tolist()),
        cameras=cameras,
    )


def _fitting(
    given: Embodiment, found: Embodiment, environment: gymnasium.Env[Any, Any], settings: GymSettings
) -> Match:
    if settings.control_hz is None and not environment.metadata.get("render_fps"):
        # It does not say how fast it is.
        found = replace(found, control_hz=given.control_hz)
    return match(given, found)


def _action_space(environment: gymnasium.Env[Any, Any]) -> spaces.Box:
    space = environment.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"the action space is {space}; a robot's actions are a Box with one axis")
    return space


def _number(value: SupportsFloat) -> float:
    return float(np.max(np.asarray(value, dtype=np.float64)))


def _fitted(picture: Any, size: tuple[int, int]) -> ByteArray:
    """Return a picture at (height, width), by its nearest pixels."""
    found = np.asarray(picture)
    if found.shape == (*size, 3) and found.dtype == np.uint8:
        return found
    if found.ndim != 3 or found.shape[-1] != 3:
        raise RobotFault(f"the environment rendered shape {found.shape}; make it with render_mode='rgb_array'")
    rows = np.arange(size[0]) * found.shape[0] // size[0]
    columns = np.arange(size[1]) * found.shape[1] // size[1]
    return np.ascontiguousarray(found[rows][:, columns], dtype=np.uint8)
