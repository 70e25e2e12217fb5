"""Which cells each table needs, and in which order they are run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from lwd.recipes.reproduce.cells import Cell
from lwd.recipes.reproduce.registry import Registry
from lwd.recipes.reproduce.scale import EVALUATION_SEED, WORLD, Scale

TableName = Literal["table1", "table2", "table3", "fleet_size", "all"]
Stage = Literal["sft", "offline", "online"]

_Wanted = tuple[str, Stage]
_TABLES: dict[TableName, tuple[_Wanted, ...]] = {
    "table1": (
        ("sft", "sft"),
        ("lwd", "offline"),
        ("lwd", "online"),
        ("recap", "online"),
        ("hg_dagger", "online"),
        ("recap", "offline"),
        ("lwd_paper", "offline"),
        ("lwd_paper", "online"),
        ("qam", "offline"),
        ("qam", "online"),
        ("best_of_n", "offline"),
        ("best_of_n", "online"),
        ("fql", "offline"),
        ("fql", "online"),
    ),
    "table2": (("lwd", "offline"), ("expectile", "offline"), ("lwd", "online"), ("expectile", "online")),
    "table3": (("lwd", "offline"), ("constant_level", "offline")),
}
_PAPER_FIRST = 5
"""Of table 1: the paper's own rows; the others beside them follow after tables 2 and 3."""
LEVEL_FROM = "lwd"
"""Method whose offline run gives the constant level of table 3."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Evaluation cells in the order in which they are wanted; what they start from hangs on them."""

    scale: Scale
    cells: tuple[Cell, ...]


def make_plan(table: TableName, scale: Scale, registry: Registry) -> Plan:
    """Plan a table, or all of them: first seed 0 of tables 1 to 3, then the other seeds, then the fleet sizes.

    Methods that the registry does not have are left out.
    """
    build = _Builder(scale, registry)
    cells: list[Cell] = []
    for seed in scale.seeds:
        cells += (build.evaluation(method, stage, seed) for method, stage in _order(table) if build.has(method, stage))
    if table in ("fleet_size", "all"):
        for seed in scale.seeds:
            cells += build.fleet_sizes(seed)
    return Plan(scale=scale, cells=tuple({cell.key: cell for cell in cells}.values()))


def _order(table: TableName) -> Sequence[_Wanted]:
    if table == "fleet_size":
        return ()
    if table != "all":
        return _TABLES[table]
    first, beside = _TABLES["table1"][:_PAPER_FIRST], _TABLES["table1"][_PAPER_FIRST:]
    return tuple(dict.fromkeys((*first, *_TABLES["table2"], *_TABLES["table3"], *beside)))


class _Builder:
    """Makes cells from the recipes."""

    def __init__(self, scale: Scale, registry: Registry) -> None:
        self._scale = scale
        self._registry = registry

    def has(self, method: str, stage: Stage) -> bool:
        if stage == "sft":
            return True
        found = self._registry.methods.get(method)
        return found is not None and (found.offline or stage == "online")

    def fleet_sizes(self, seed: int) -> Iterator[Cell]:
        """The same method with fewer robots: for as many robot hours, and for as much wall clock."""
        scale = self._scale
        for robots in sorted(scale.fleet_sizes, reverse=True):
            for env_steps in dict.fromkeys((scale.env_steps * robots // scale.robots, scale.env_steps)):
                yield self.evaluation("lwd", "online", seed, robots=robots, env_steps=env_steps)

    def evaluation(
        self, method: str, stage: Stage, seed: int, *, robots: int | None = None, env_steps: int | None = None
    ) -> Cell:
        scale = self._scale
        training = self._training(method, stage, seed, robots or scale.robots, env_steps or scale.env_steps)
        return Cell(
            stage="evaluate",
            of=stage,
            method=method,
            seed=seed,
            robots=training.robots,
            env_steps=training.env_steps,
            suffix=training.suffix,
            settings={
                "world": WORLD,
                "seed": EVALUATION_SEED,
                "episodes": scale.episodes,
                "tasks": list(scale.tasks),
            },
            parents=(training,),
        )

    def _training(self, method: str, stage: Stage, seed: int, robots: int, env_steps: int) -> Cell:
        if stage == "sft":
            return self._sft(seed)
        return self._offline(method, seed) if stage == "offline" else self._online(method, seed, robots, env_steps)

    def _sft(self, seed: int) -> Cell:
        recipe = self._registry.recipe(self._scale.stages, "lwd")
        data = Cell(stage="data", method="shared", seed=0, settings=asdict(recipe.data))
        return Cell(stage="sft", method="sft", seed=seed, settings=asdict(recipe.sft), parents=(data,))

    def _offline(self, method: str, seed: int) -> Cell:
        return Cell(
            stage="offline",
            method=method,
            seed=seed,
            settings=asdict(self._registry.recipe(self._scale.stages, method).offline),
            parents=(self._sft(seed),),
            level_from=self._offline(LEVEL_FROM, seed) if method == "constant_level" else None,
        )

    def _online(self, method: str, seed: int, robots: int, env_steps: int) -> Cell:
        recipe, scale = self._registry.recipe(self._scale.stages, method), self._scale
        has_offline = self._registry.methods[method].offline
        parent = self._offline(method, seed) if has_offline else self._sft(seed)
        fleet = asdict(recipe.fleet) | {"world": WORLD}
        for given in ("robots", "env_steps"):
            fleet.pop(given)
        other = (robots, env_steps) != (scale.robots, scale.env_steps)
        return Cell(
            stage="online",
            method=method,
            seed=seed,
            robots=robots,
            env_steps=env_steps,
            suffix=f"-{robots}robots-{env_steps}steps" if other else "",
            settings={"algorithm": asdict(recipe.online), "fleet": fleet},
            parents=(parent,),
        )
