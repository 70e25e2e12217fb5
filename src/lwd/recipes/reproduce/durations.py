"""How long cells take: measured where one of the same kind has been run, known values otherwise."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean

from lwd.evaluation.experiment.records import CellRecord
from lwd.recipes.reproduce.cells import Cell
from lwd.recipes.reproduce.scale import Scale, ScaleName

Kind = tuple[str, ...]
"""(stage,) or (stage, method)."""

KNOWN_S: dict[ScaleName, dict[Kind, float]] = {
    "smoke": {("data",): 36, ("sft",): 17, ("offline",): 12, ("online",): 20, ("evaluate",): 11},
    # On two cores that other jobs shared, one seed of LWD; online: docs/results/learn.json and the start of the fleet.
    # QAM's ten critics: from 7.7 updates/s, where LWD made 16.6 at the same time.
    "small": {
        ("data",): 94,
        ("sft",): 51,
        ("offline",): 131,
        ("offline", "qam"): 390,
        ("online",): 455,
        ("online", "qam"): 990,
        ("evaluate",): 48,
    },
}
"""Budget -> kind -> seconds of a cell with the whole fleet; a budget that nobody has measured is not there."""
_START_S = 25.0
"""Of an online cell that do not depend on its steps: processes, message bus, the first policy."""


class Durations:
    """Estimates that follow what is measured."""

    def __init__(self, scale: Scale, records: Iterable[CellRecord] = ()) -> None:
        self._scale = scale
        self._measured: defaultdict[tuple[object, ...], list[float]] = defaultdict(list)
        for record in records:
            if record.failed:
                continue
            self._note("evaluate", record.method, record.robots, record.env_steps, record.wall_s)
            if record.training is not None:
                self._note(record.stage, record.method, record.robots, record.env_steps, record.training.wall_s)

    def note(self, cell: Cell, seconds: float) -> None:
        """Take in the duration of a finished cell."""
        self._note(cell.stage, cell.method, cell.robots, cell.env_steps, seconds)

    def _note(self, stage: str, method: str, robots: int, env_steps: int, seconds: float) -> None:
        kinds: list[tuple[object, ...]] = [(stage, method, robots, env_steps), (stage, method), (stage,)]
        # What a smaller fleet takes says nothing about the whole one.
        whole = stage != "online" or (robots, env_steps) == (self._scale.robots, self._scale.env_steps)
        for kind in kinds if whole else kinds[:1]:
            self._measured[kind].append(seconds)

    def estimate_s(self, cell: Cell) -> float | None:
        """Seconds that a cell takes: as cells of its kind, else of its method, else of its stage; None: unknown."""
        exact = self._measured.get((cell.stage, cell.method, cell.robots, cell.env_steps))
        if exact:
            return mean(exact)
        kinds: tuple[Kind, ...] = ((cell.stage, cell.method), (cell.stage,))
        for kind in kinds:
            if kind in self._measured:
                return self._scaled(cell, mean(self._measured[kind]))
        known = KNOWN_S.get(self._scale.name)
        if known is None:
            return None
        return self._scaled(cell, known.get((cell.stage, cell.method), known[cell.stage,]))

    def _scaled(self, cell: Cell, seconds: float) -> float:
        if cell.stage != "online":
            return seconds
        return min(_START_S, seconds) + max(0.0, seconds - _START_S) * cell.env_steps / self._scale.env_steps

    def total_s(self, cells: Iterable[Cell], jobs: int) -> float | None:
        """Seconds for all of them: one-core cells fill the cores, the others take turns; None: unknown."""
        total = 0.0
        for cell in cells:
            seconds = self.estimate_s(cell)
            if seconds is None:
                return None
            total += seconds / jobs if cell.cores == "one" else seconds
        return total
