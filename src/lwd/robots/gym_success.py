"""When a step of a Gymnasium environment has done its task: one rule, as `lwd robot --success` gives it.

- `KEY`: what `info` has below that key is true, or above 0; `a.b` is `b` in what it has below `a`. A key that is not
  there says nothing yet, so it may come with the last step alone.
- `info:KEY`: the same, for keys that look like another rule.
- `reward>=R`: the step's reward is at least R.
- `terminated`: the environment terminates.
- `package.module:function`, or `module.function` where there is such a function: it is called with (observation,
  reward, terminated, truncated, info) of each step and returns whether the task is done.

Without a rule `info` must have `is_success` or `success` at every step.
"""

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lwd.errors import ConfigError, RobotFault
from lwd.robots.foreign import Foreign, as_array, said, shown

COMMON_KEYS = ("is_success", "success")
"""Where environments commonly say that the task is done."""
_RULES = (
    "KEY of info (a.b for nested ones), info:KEY, reward>=R, terminated, or package.module:function "
    "(docs/bring-your-own.md)"
)
_REWARD = re.compile(r"reward\s*([<>=]+)\s*(.*)")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What an environment's `step` returned."""

    observation: Any
    reward: Any
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class SuccessTest(Protocol):
    """Whether a step did the task. Its text is the rule."""

    def __call__(self, step: Step) -> bool | None:
        """Return whether it did; None: the environment has not said anything (yet).

        Raises:
            RobotFault: if what it says is no answer.
        """


def success_test(rule: str | None) -> SuccessTest:
    """Return the test that a rule describes; None: the common keys.

    Raises:
        ConfigError: if it is no rule, or its function is not there or takes other arguments.
    """
    if rule is None:
        return _CommonKeys()
    rule = rule.strip()
    if not rule:
        raise ConfigError(f"success is empty: give {_RULES}")
    if rule == "terminated":
        return _Terminated()
    if (compared := _REWARD.fullmatch(rule)) is not None:
        return _Reward(at_least=_threshold(rule, *compared.groups()))
    if rule.startswith("info:"):
        return _Key(rule.removeprefix("info:"))
    if ":" in rule:
        return _Function(rule, _function(rule, *rule.split(":", 1)))
    module, dot, name = rule.rpartition(".")
    if dot and _has_function(module, name):
        return _Function(rule, _function(rule, module, name))
    return _Key(rule)


@dataclass(frozen=True)
class _CommonKeys:
    def __call__(self, step: Step) -> bool | None:
        for key in COMMON_KEYS:
            if key in step.info:
                return _truth(step.info[key], f"info[{key!r}]")
        raise RobotFault(
            f"info has no {' or '.join(COMMON_KEYS)} (it has: {_keys(step.info)}): say with --success when the task "
            f"is done, by {_RULES}"
        )


@dataclass(frozen=True)
class _Key:
    key: str

    def __call__(self, step: Step) -> bool | None:
        found = _below(step.info, self.key)
        return None if found is None else _truth(found, f"info {self.key}")

    def __str__(self) -> str:
        return f"key {self.key} of info"


@dataclass(frozen=True)
class _Reward:
    at_least: float

    def __call__(self, step: Step) -> bool | None:
        return reward_of(step) >= self.at_least


@dataclass(frozen=True)
class _Terminated:
    def __call__(self, step: Step) -> bool | None:
        return step.terminated


@dataclass(frozen=True)
class _Function:
    name: str
    function: Callable[..., Any]

    def __call__(self, step: Step) -> bool | None:
        with Foreign(f"success function {self.name}"):
            found = self.function(step.observation, step.reward, step.terminated, step.truncated, step.info)
        return _truth(found, f"what success function {self.name} returned")


def reward_of(step: Step) -> float:
    """Return a step's reward.

    Raises:
        RobotFault: if it is no finite number.
    """
    array = as_array(step.reward, "the reward")
    if array.size != 1 or not np.isfinite(array).all():
        raise RobotFault(f"the reward is {shown(repr(step.reward))}: it must be one finite number")
    return float(array.reshape(()))


def _below(info: Mapping[str, Any], key: str) -> Any:
    """Return what is below a key, or below the first part of a dotted one, and so on; None: nothing."""
    if key in info:
        return info[key]
    first, dot, rest = key.partition(".")
    inner = info.get(first) if dot else None
    return _below(inner, rest) if isinstance(inner, Mapping) else None


def _truth(value: Any, what: str) -> bool:
    array = as_array(value, what)
    if array.size == 0 or not np.isfinite(array).all():
        raise RobotFault(f"{what} is {shown(repr(value))}: it must be a bool or a finite number")
    return bool(np.max(array) > 0)


def _keys(info: Mapping[str, Any]) -> str:
    return shown(", ".join(map(str, info))) or "nothing"


def _threshold(rule: str, relation: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if relation != ">=" or not math.isfinite(number):
        raise ConfigError(f"success is {rule!r}; a reward is compared as in reward>=0.9")
    return number


def _has_function(module: str, name: str) -> bool:
    """Whether there is such a module with such a function; else a dotted rule is a key."""
    if not all(part.isidentifier() for part in module.split(".")):
        return False
    try:
        return callable(getattr(importlib.import_module(module), name, None))
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return False
        raise ConfigError(f"success is {module}.{name}, but importing {module} raised {said(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"success is {module}.{name}, but importing {module} raised {said(error)}") from error


def _function(rule: str, module: str, name: str) -> Callable[..., Any]:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"success function {rule} cannot be had ({said(error)}): give package.module:function, and put its "
            "directory on PYTHONPATH if it is not installed"
        ) from error
    if not callable(found):
        raise ConfigError(f"success function {rule} is a {type(found).__name__}; give a function")
    try:
        inspect.signature(found).bind(None, 0.0, False, False, {})
    except TypeError as error:
        raise ConfigError(
            f"success function {rule} takes other arguments ({error}); it is called with (observation, reward, "
            "terminated, truncated, info)"
        ) from error
    except ValueError:
        pass  # some written in C have no signature
    result: Callable[..., Any] = found
    return result
