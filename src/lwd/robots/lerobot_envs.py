"""LeRobot's simulated environments (LIBERO, Meta-World, ...) as tasks of one `Robot` (extra `lerobot`)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from lwd.commands import missing_extra
from lwd.errors import ConfigError
from lwd.robots.driving_options import DrivingOptions
from lwd.robots.foreign import said
from lwd.robots.gym import GymRobot, GymSettings
from lwd.robots.gym_success import SuccessTest, success_test
from lwd.robots.known_driving import known_driving
from lwd.robots.lerobot_observations import ProcessedEnvironment, attribute_of, processors_of
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
        except (Exception, SystemExit) as error:  # of somebody else's package, whatever it raises
            raise ConfigError(
                f"lerobot_env {kind!r} with {dict(arguments)}: {said(error)}: install its package, check its arguments"
            ) from error
        self._kind = kind
        self.name = f"lerobot-{kind}"
        self._config = config
        self._fps = float(config.fps)
        self._processors = processors_of(config)
        self._ready: dict[str, gymnasium.Env[Any, Any]] = {}
        self._builders: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {}
        tasks = []
        for suite, numbered in suites.items():
            for number, vector in numbered.items():
                if not isinstance(vector, gymnasium.vector.SyncVectorEnv):
                    raise ConfigError(f"lerobot_env {kind!r} makes a {type(vector).__name__}; a robot is one at a time")
                task = _task(suite, number, len(numbered), vector.envs[0], config)
                self._ready[task.name], self._builders[task.name] = vector.envs[0], vector.env_fns[0]
                tasks.append(task)
        self.tasks = tuple(tasks)

    def robot(
        self,
        tasks: tuple[Task, ...],
        *,
        own_names: Mapping[str, str] | None = None,
        success: SuccessTest | None = None,
        control_hz: float | None = None,
        embodiment: Embodiment | None = None,
        driving: DrivingOptions | None = None,
    ) -> GymRobot:
        """Return the robot. It closes the environments, so there is one at a time.

        Args:
            own_names: what the environment calls a task whose name here is another one.
            success: None: `info` says it.
            control_hz: how many steps are a second; None: the rate of LeRobot's configuration.
            driving: how a person drives it; None: as is known of the type.
        """
        names = own_names or {}
        settings = GymSettings(
            name=self.name,
            success=success or success_test(None),
            control_hz=control_hz or self._fps,
            embodiment=embodiment,
            driving=known_driving(self._kind, driving),
        )
        return GymRobot(lambda task: self._environment(names.get(task.name, task.name)), tasks, settings)

    def _environment(self, name: str) -> gymnasium.Env[Any, Any]:
        """Return a task's environment: the one that is there, or a new one in the place of one that failed."""
        feature = self._config.features.get("action")
        size = None if feature is None else int(np.prod(feature.shape))
        environment = self._ready.pop(name) if name in self._ready else self._builders[name]()
        return ProcessedEnvironment(environment, self._processors, size)


def _task(suite: str, number: int, count: int, environment: gymnasium.Env[Any, Any], config: Any) -> Task:
    said = attribute_of(environment, "task_description") or attribute_of(environment, "task") or config.task or suite
    limit = attribute_of(environment, "_max_episode_steps") or getattr(config, "episode_length", _DEFAULT_TIME_LIMIT)
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", str(suite))
    return Task(
        name=words if count == 1 else f"{words}-{number}",
        instructions=(str(said),),
        heldout_instructions=(),
        sub_steps=("done",),
        time_limit=int(limit),
        long_horizon=False,
    )
