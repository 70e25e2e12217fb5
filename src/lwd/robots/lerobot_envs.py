"""LeRobot's simulated environments (LIBERO, Meta-World, ...) as tasks of one `Robot` (extra `lerobot`)."""

import re
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from lwd.commands import missing_extra
from lwd.errors import ConfigError
from lwd.robots.driving_options import DrivingOptions
from lwd.robots.gym import GymRobot, GymSettings
from lwd.robots.known_driving import known_driving
from lwd.types import Embodiment, Task

_DEFAULT_TIME_LIMIT = 500


class LeRobotEnvironments:
    """All tasks of one environment type; what observations are called is what LeRobot calls them in its datasets."""

    def __init__(self, kind: str, arguments: Mapping[str, Any]) -> None:
        """
        Args:
            kind: LeRobot's type, such as libero or metaworld.
            arguments: of its configuration, such as {"task": "libero_spatial"}.
        Raises:
            ConfigError: if LeRobot, the type or the environment's package is not there, or an argument is wrong.
        """
        try:
            from lerobot.envs.configs import EnvConfig
            from lerobot.envs.factory import make_env
        except ImportError as error:
            raise ConfigError(missing_extra("lerobot_env", f"lerobot ({error})", ["edge", "lerobot"])) from error
        known = EnvConfig.get_known_choices()
        if kind not in known:
            raise ConfigError(f"lerobot_env is {kind!r}; LeRobot knows {', '.join(sorted(known))}")
        try:
            config = known[kind](**arguments)
            suites = make_env(config, n_envs=1, use_async_envs=False)
        except EOFError as error:
            # LIBERO asks for a directory when it is first imported, and a service has nobody to answer.
            raise ConfigError(
                f"the package of lerobot_env {kind!r} asks questions before its first use: import it at a terminal "
                f"(python -c 'import {kind}.{kind}'), then start again"
            ) from error
        except (ImportError, OSError, TypeError, ValueError, KeyError, gymnasium.error.Error) as error:
            raise ConfigError(
                f"lerobot_env {kind!r} with {dict(arguments)}: {type(error).__name__}: {error}"
            ) from error
        self._kind = kind
        self.name = f"lerobot-{kind}"
        self._fps = float(config.fps)
        self._environments: dict[str, gymnasium.Env[Any, Any]] = {}
        tasks = []
        for suite, numbered in suites.items():
            for number, vector in numbered.items():
                environment = _Single(vector.envs[0])
                task = _task(suite, number, len(numbered), environment, config)
                self._environments[task.name] = environment
                tasks.append(task)
        self.tasks = tuple(tasks)

    def robot(
        self, tasks: tuple[Task, ...], *, embodiment: Embodiment | None = None, driving: DrivingOptions | None = None
    ) -> GymRobot:
        """Return the robot. It closes the environments, so there is one at a time.

        Args:
            driving: how a person drives it; None: as is known of the type.
        """
        settings = GymSettings(
            name=self.name,
            control_hz=self._fps,
            embodiment=embodiment,
            driving=known_driving(self._kind, driving),
        )
        return GymRobot(lambda task: self._environments[task.name], tasks, settings)


class _Single(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment out of LeRobot's vector of one: begins episodes as its roll-outs do, names as its datasets do."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment)
        space = environment.observation_space
        if not isinstance(space, spaces.Dict):
            raise ConfigError(
                f"observations are a {type(space).__name__}, not a Dict: choose obs_type pixels_agent_pos"
            )
        self.observation_space = spaces.Dict(_named(space.spaces))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        # Without it an environment that has ended stays as it is: LeRobot's own reset after an episode does nothing.
        raw, info = self.env.reset(seed=seed, options={**(options or {}), NEW_ROLLOUT_OPTION: True})
        return _named(raw), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        raw, reward, terminated, truncated, info = self.env.step(action)
        return _named(raw), reward, terminated, truncated, info


def _named(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Rename as LeRobot does: pixels -> image (or the cameras' own names), agent_pos -> state."""
    named: dict[str, Any] = {}
    for key, value in parts.items():
        if key == "pixels":
            cameras = value.spaces if isinstance(value, spaces.Dict) else value
            named |= cameras if isinstance(cameras, Mapping) else {"image": value}
        else:
            named["state" if key == "agent_pos" else key] = value
    return named


def _task(suite: str, number: int, count: int, environment: gymnasium.Env[Any, Any], config: Any) -> Task:
    said = _attribute(environment, "task_description") or _attribute(environment, "task") or config.task or suite
    limit = _attribute(environment, "_max_episode_steps") or getattr(config, "episode_length", _DEFAULT_TIME_LIMIT)
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", str(suite))
    return Task(
        name=words if count == 1 else f"{words}-{number}",
        instructions=(str(said),),
        heldout_instructions=(),
        sub_steps=("done",),
        time_limit=int(limit),
        long_horizon=False,
    )


def _attribute(environment: gymnasium.Env[Any, Any], name: str) -> Any:
    try:
        return environment.get_wrapper_attr(name)
    except AttributeError:
        return None
