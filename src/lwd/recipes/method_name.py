"""What methods are called; apart from their recipes, so that verbs without torch can know the names."""

from typing import Literal

MethodName = Literal["lwd", "lwd_paper", "constant_level", "expectile", "qam", "best_of_n", "fql", "recap", "hg_dagger"]
