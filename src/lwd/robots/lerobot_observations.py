"""LeRobot's simulated environments with LeRobot's own processors around them (extra `lerobot`).

What reaches a policy in `lerobot-eval`, and lies in LeRobot's datasets of an environment, is not what the environment
returns: its configuration's processors may turn pictures and choose the state's numbers, and change actions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from lwd.errors import ConfigError

_PREFIXES = ("observation.images.", "observation.")
_TASK = "task"


class ProcessedEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment out of LeRobot's vector of one: begins episodes as its roll-outs do, processed as they are.

    Observations are a flat Dict, named as in LeRobot's datasets without their prefix: `state`, `image` or the cameras'
    own names; pictures are (height, width, 3) uint8. Actions are a policy's: where the configuration's processors
    change them, the space is not bounded, because what they may be is not said anywhere.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], processors: tuple[Any, Any], action_size: int | None):
        """
        Args:
            processors: of observations and of actions, as LeRobot's configuration of the environment gives them.
            action_size: numbers of a policy's action; None: as many as the environment's.
        Raises:
            ConfigError: if the processors do not take this environment's observations.
        """
        super().__init__(environment)
        self._before, self._after = processors
        self._said = str(attribute_of(environment, "task_description") or attribute_of(environment, _TASK) or "")
        space = environment.observation_space
        if not isinstance(space, spaces.Dict):
            raise ConfigError(
                f"observations are a {type(space).__name__}, not a Dict: choose obs_type pixels_agent_pos"
            )
        try:
            seen = self._processed(_zeros(space))
        except Exception as error:  # of LeRobot's processors, whatever they raise
            raise ConfigError(
                f"LeRobot's processors do not take the observations of {environment}: {type(error).__name__}: {error}"
            ) from error
        self.observation_space = spaces.Dict({name: _space(value) for name, value in seen.items()})
        if list(self._after.steps):
            size = action_size or int(np.prod(environment.action_space.shape or ()))
            self.action_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        if seed is not None and hasattr(self.unwrapped, "init_state_id"):
            # LIBERO takes its stored starts in turn; here the same seed gives the same start.
            self.unwrapped.init_state_id = seed
        # Without it an environment that has ended stays as it is: LeRobot's own reset after an episode does nothing.
        raw, info = self.env.reset(seed=seed, options={**(options or {}), NEW_ROLLOUT_OPTION: True})
        return self._processed(raw), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        raw, reward, terminated, truncated, info = self.env.step(self._sent(action))
        return self._processed(raw), reward, terminated, truncated, info

    def _sent(self, action: Any) -> Any:
        """Return what the environment is sent: within its space, of its dtype."""
        if not list(self._after.steps):
            return action
        processed = self._after({"action": torch.from_numpy(np.asarray(action, np.float32))[None]})["action"]
        sent = np.asarray(processed.cpu() if isinstance(processed, torch.Tensor) else processed)[0]
        space = self.env.action_space
        return np.clip(sent, space.low, space.high).astype(space.dtype) if isinstance(space, spaces.Box) else sent

    def _processed(self, raw: Any) -> dict[str, Any]:
        from lerobot.envs.utils import preprocess_observation

        seen = preprocess_observation(_batched(raw))
        seen[_TASK] = [self._said]
        return dict(_named(self._before(seen)))


def processors_of(config: Any) -> tuple[Any, Any]:
    """Return the processors of an environment's configuration.

    Raises:
        ConfigError: if they cannot be built.
    """
    from lerobot.envs.factory import make_env_pre_post_processors

    try:
        before, after = make_env_pre_post_processors(config, None)
    except Exception as error:  # plug-ins bring their own
        raise ConfigError(
            f"the processors of lerobot_env {config.type!r} cannot be built ({type(error).__name__}: {error}): check "
            "its arguments and packages"
        ) from error
    return before, after


def attribute_of(environment: gymnasium.Env[Any, Any], name: str) -> Any:
    """Return what an environment, or one that it wraps, calls so; None: nothing."""
    try:
        return environment.get_wrapper_attr(name)
    except AttributeError:
        return None


def _named(seen: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Give processed observations our names and forms: one row of numbers, pictures of bytes with colours last."""
    for key, value in seen.items():
        prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None)
        if prefix is None:
            continue  # what else a processor hands on: reward, task
        name = key.removeprefix(prefix)
        for path, leaf in _leaves(value, name):
            numbers = np.asarray(leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf)[0]
            if key.startswith("observation.image") and numbers.ndim == 3:
                # LeRobot's pictures are (3, height, width) from 0 to 1.
                numbers = np.rint(np.clip(np.moveaxis(numbers, 0, -1), 0, 1) * 255).astype(np.uint8)
            yield path, numbers


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}")
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        yield name, value


def _batched(raw: Any) -> Any:
    """Add the axis of LeRobot's vector of environments."""
    if isinstance(raw, Mapping):
        return {key: _batched(value) for key, value in raw.items()}
    # Stacked as LeRobot's vector does it: torch takes no array that is turned by its strides.
    return np.stack([np.asarray(raw)]) if isinstance(raw, (np.ndarray, np.generic, float, int)) else raw


def _zeros(space: spaces.Space[Any]) -> Any:
    """Return an observation of a space, of which only the shapes matter."""
    if isinstance(space, spaces.Dict):
        return {key: _zeros(inner) for key, inner in space.spaces.items()}
    return np.zeros(space.shape, space.dtype) if isinstance(space, spaces.Box) else space.sample()


def _space(value: Any) -> spaces.Box:
    array = np.asarray(value)
    if array.dtype == np.uint8 and array.ndim == 3:
        return spaces.Box(0, 255, array.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, array.shape, np.float32)
