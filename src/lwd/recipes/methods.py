"""LWD and what it is compared with, each as a change of the scene's recipe. docs/baselines.md has their sources.

What a method does not define itself (networks, data, updates, fleet, sampling) is LWD's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from lwd.algos.config import LWDConfig
from lwd.algos.recap import RecapConfig
from lwd.errors import ConfigError
from lwd.learner.limiter import RoundLimiter
from lwd.recipes.budget import Budget
from lwd.recipes.method_name import MethodName
from lwd.recipes.scene import Recipe, StageRecipe, recipe

RECAP_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of the comparison."""

    name: MethodName
    words: str
    """In tables."""
    offline: bool = True
    """Whether it learns from the offline data before it goes online; else it goes online from the SFT policy."""


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(name="lwd", words="LWD"),
        Method(name="lwd_paper", words="LWD as published"),
        Method(name="constant_level", words="Constant level"),
        Method(name="expectile", words="Expectile (IQL)"),
        Method(name="qam", words="QAM without DIVL"),
        Method(name="best_of_n", words="Best of N"),
        Method(name="fql", words="FQL-style"),
        Method(name="recap", words="RECAP"),
        Method(name="hg_dagger", words="HG-DAgger", offline=False),
    )
}
assert set(METHODS) == set(get_args(MethodName))


def method_recipe(budget: Budget, method: str = "lwd", *, quantile_level: float | None = None) -> Recipe:
    """Return the recipe of a method, see `with_method`."""
    return with_method(recipe(budget), method, quantile_level=quantile_level)


def with_method(base: Recipe, method: str, *, quantile_level: float | None = None) -> Recipe:
    """Return LWD's recipe changed to another method's.

    Args:
        base: with the fleet that the method will have.
        quantile_level: of `constant_level`, which needs one; no other method takes it.
    Raises:
        ConfigError: if the method is not known, or the level is missing or of no use.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; it must be one of: {', '.join(METHODS)}")
    if (quantile_level is not None) != (method == "constant_level"):
        raise ConfigError(
            f"quantile_level is {quantile_level} with method {method!r}: constant_level needs one, no other takes one"
        )
    if method == "recap":
        return _recap(base)
    if method == "hg_dagger":
        return replace(base, online=replace(base.online, algorithm=base.imitation))
    offline, online = _CHANGES[method](base, quantile_level)
    return replace(base, offline=offline, online=online)


def _both(base: Recipe, algorithm: Mapping[str, Any], **stage: Any) -> tuple[StageRecipe, StageRecipe]:
    """Both stages with changed settings of LWD and of the stage."""
    offline, online = (_changed(which, algorithm, **stage) for which in (base.offline, base.online))
    return offline, online


def _changed(which: StageRecipe, algorithm: Mapping[str, Any], **stage: Any) -> StageRecipe:
    assert isinstance(which.algorithm, LWDConfig)
    return replace(which, algorithm=replace(which.algorithm, **algorithm), **stage)


def _paper(base: Recipe, _: float | None) -> tuple[StageRecipe, StageRecipe]:
    """The published form at our scale: what the temperature divides stays automatic, 2 would do nothing here."""
    fixed: dict[str, Any] = {"reference_learning_rate": None, "rollout": "reference"}
    # Shares of what is worth imitating are for a reference that imitates.
    plain = {"demonstration_share": 0.0, "human_share": 0.0}
    return (
        _changed(base.offline, fixed | {"quantile_base": 0.6}, n_step_long=10, **plain),
        _changed(base.online, fixed | {"quantile_base": 0.9}, n_step_long=1, **plain),
    )


def _constant_level(base: Recipe, level: float | None) -> tuple[StageRecipe, StageRecipe]:
    return _both(base, {"quantile_base": level, "entropy_weight": 0.0})


def _expectile(base: Recipe, _: float | None) -> tuple[StageRecipe, StageRecipe]:
    # V's loss is now a squared error like Q's: Q's needs no weight to be heard beside it.
    critic = replace(base.offline.critic, num_atoms=1)
    return _both(base, {"value": "expectile", "critic_loss_weight": 1.0}, critic=critic)


def _qam(base: Recipe, _: float | None) -> tuple[StageRecipe, StageRecipe]:
    """As its source: an ensemble of ten, no value, and no targets over several chunks of another policy."""
    critic = replace(base.offline.critic, num_critics=10)
    return _both(base, {"value": "policy_td", "critic_loss_weight": 1.0}, critic=critic, n_step_long=1)


_CHANGES: Mapping[str, Callable[[Recipe, float | None], tuple[StageRecipe, StageRecipe]]] = {
    "lwd": lambda base, _: (base.offline, base.online),
    "lwd_paper": _paper,
    "constant_level": _constant_level,
    "expectile": _expectile,
    "qam": _qam,
    "best_of_n": lambda base, _: _both(base, {"extraction": "best_of_n"}),
    "fql": lambda base, _: _both(base, {"extraction": "fql"}),
}


def _recap(base: Recipe) -> Recipe:
    """Offline one round on the data at hand; online two, each with half of the fleet's steps and of LWD's updates."""
    fleet = base.fleet
    updates = fleet.limiter.updates_allowed(fleet.env_steps) // RECAP_ROUNDS
    rounds = RoundLimiter(steps_per_round=fleet.env_steps // RECAP_ROUNDS, updates_per_round=updates)

    def stage(of: StageRecipe, round_updates: int) -> StageRecipe:
        calibration = min(32, round_updates // 4)
        settings = RecapConfig(round_updates=round_updates, calibration_updates=calibration)
        # Its advantages are over one chunk, of all tasks.
        return replace(of, algorithm=settings, n_step_short=1, n_step_long=1)

    return replace(
        base,
        offline=stage(base.offline, base.offline.updates),
        online=stage(base.online, updates),
        fleet=replace(fleet, limiter=rounds),
    )
