"""What of a policy's numbers reaches a Gymnasium environment.

Whole-number actions: the nearest, halves upwards, within the space. Their limits reach half a unit beyond the space, so
that each value has the same share of the range, the outermost too.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from lwd.errors import ConfigError
from lwd.types import FloatArray

_MOST_VALUES = 2**20
"""Beyond it a float32, which actions are, does not tell whole numbers and their halves apart."""


@dataclass(frozen=True, kw_only=True)
class GymActions:
    """The actions (A,) of one environment."""

    space: spaces.Box
    low: tuple[float, ...]
    """Limits of what a policy says; infinite where the environment states none."""
    high: tuple[float, ...]

    @classmethod
    def of(cls, environment: gymnasium.Env[Any, Any]) -> "GymActions":
        """Read an environment's actions; what ClipAction hides is looked up behind it.

        Raises:
            ConfigError: if they are no Box with one axis, or of too many whole numbers.
        """
        space = environment.action_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ConfigError(
                f"the action space is {space}; a robot's actions are a Box with one axis. Choices (Discrete, "
                "MultiDiscrete) have no order that a policy's numbers could follow: wrap the environment so that "
                "numbers choose"
            )
        space = _behind_clipping(environment) or space
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        if _is_whole(space):
            if (high - low > _MOST_VALUES).any():
                raise ConfigError(
                    f"the action space is {space}: more than {_MOST_VALUES} whole numbers cannot be told apart; "
                    "state the ones that are used"
                )
            low, high = low - 0.5, high + 0.5
        return cls(space=space, low=tuple(low.tolist()), high=tuple(high.tolist()))

    @property
    def is_bounded(self) -> bool:
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def sent(self, action: FloatArray) -> npt.NDArray[Any]:
        """Return what the environment is sent for an action (A,): of its dtype, within its space."""
        exact = action.astype(np.float64)
        if _is_whole(self.space):
            exact = np.floor(exact + 0.5)
        # In the space's own dtype: a limit such as 0.1 is larger as a float32 than as a float64.
        low, high = self.space.low, self.space.high
        if _is_whole(self.space):
            return np.clip(exact, low.astype(np.float64), high.astype(np.float64)).astype(self.space.dtype)
        return np.clip(exact.astype(self.space.dtype), low, high)


def _behind_clipping(environment: gymnasium.Env[Any, Any]) -> spaces.Box | None:
    """Return what ClipAction, which has no limits of its own, clips to; None where there is none."""
    found: spaces.Box | None = None
    inner = environment
    while isinstance(inner, gymnasium.Wrapper):
        clips = isinstance(inner, gymnasium.wrappers.ClipAction)
        if not clips and inner.action_space is not inner.env.action_space:
            break
        inner = inner.env
        if clips and isinstance(inner.action_space, spaces.Box):
            found = inner.action_space
    return found


def _is_whole(space: spaces.Box) -> bool:
    return np.dtype(space.dtype).kind in "iub"
