"""Which methods the experiment compares, and how a verb is told which one to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lwd.errors import ConfigError
from lwd.recipes.budget import Budget
from lwd.recipes.scene import Recipe, recipe

WORDS = {
    "sft": "SFT",
    "recap": "RECAP",
    "hg_dagger": "HG-DAgger",
    "lwd": "LWD",
    "lwd_paper": "LWD as published",
    "expectile": "Expectile (IQL)",
    "constant_level": "Constant level",
    "qam": "QAM without DIVL",
    "best_of_n": "Best of N",
    "fql": "FQL-style",
}
"""Method -> name in tables, in their order."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Which stages a method has after SFT."""

    offline: bool
    online: bool


def _scene_recipe(budget: Budget, method: str) -> Recipe:
    if method != "lwd":
        raise ConfigError(f"method is {method!r}; only 'lwd' has a recipe")
    return recipe(budget)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The methods that exist."""

    methods: Mapping[str, Method] = field(default_factory=lambda: {"lwd": Method(offline=True, online=True)})
    recipe: Callable[[Budget, str], Recipe] = _scene_recipe

    def options(self, method: str) -> tuple[str, ...]:
        """Options of `lwd offline` and `lwd up` for a method."""
        return () if method == "lwd" else ("--method", method)
