"""A small Gymnasium environment for the field faults: it does as it is told, wrong things among it."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from lwd.robots.gym import GymRobot, GymSettings
from lwd.robots.gym_success import success_test
from lwd.types import Task

TASK = Task(
    name="count", instructions=("count",), heldout_instructions=(), sub_steps=("done",), time_limit=5,
    long_horizon=False,
)  # fmt: skip


class Told(gymnasium.Env):
    """Counts its steps; `wrong` replaces what a method does."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        action_space: spaces.Space[Any] | None = None,
        observation_space: spaces.Space[Any] | None = None,
        info: Callable[[int], Any] = lambda _: {"is_success": False},
        **wrong: Callable[..., Any],
    ) -> None:
        self.action_space = action_space or spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = observation_space or spaces.Dict({"state": spaces.Box(-10, 10, (3,), np.float32)})
        self.info = info
        self.wrong = wrong
        self.sent: list[Any] = []
        self.closed = 0

    def observation(self) -> Any:
        return {"state": np.full(3, len(self.sent), np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.sent = []
        return self.wrong["reset"](self) if "reset" in self.wrong else (self.observation(), {})

    def step(self, action: Any) -> Any:
        self.sent.append(action)
        if "step" in self.wrong:
            return self.wrong["step"](self)
        return self.observation(), float(len(self.sent)), len(self.sent) == 4, False, self.info(len(self.sent))

    def render(self) -> Any:
        return self.wrong["render"](self) if "render" in self.wrong else np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        self.closed += 1
        if "close" in self.wrong:
            self.wrong["close"](self)


def robot_of(environment: gymnasium.Env[Any, Any], success: str | None = None, **settings: Any) -> GymRobot:
    """Return a robot of an environment that is there."""
    return GymRobot(lambda _: environment, (TASK,), GymSettings(name="told", success=success_test(success), **settings))
