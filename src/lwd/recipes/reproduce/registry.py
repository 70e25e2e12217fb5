"""Which methods the experiment compares, and how a verb is told which one to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lwd.recipes.budget import Budget
from lwd.recipes.methods import METHODS, Method, method_recipe
from lwd.recipes.scene import Recipe

_ORDER = ("recap", "hg_dagger", "lwd", "lwd_paper", "expectile", "constant_level", "qam", "best_of_n", "fql")
WORDS = {"sft": "SFT"} | {name: METHODS[name].words for name in _ORDER}
"""Method -> name in tables, in their order."""
_PLANNED_LEVEL = 0.5
"""In the recipe that a constant level is planned with; the level itself comes from the adaptive run, and so does the
cell's key."""


def _recipe(budget: Budget, method: str) -> Recipe:
    return method_recipe(budget, method, quantile_level=_PLANNED_LEVEL if method == "constant_level" else None)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The methods that exist."""

    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)
    recipe: Callable[[Budget, str], Recipe] = _recipe

    def options(self, method: str) -> tuple[str, ...]:
        """Options of `lwd offline` and `lwd up` for a method."""
        return () if method == "lwd" else ("--method", method)
