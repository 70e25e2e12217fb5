"""The whole experiment: plan, engine, and the page that follows the finished cells."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lwd.evaluation.experiment.page import value_figures_of, write_page, write_value_figures
from lwd.evaluation.experiment.records import file_name
from lwd.evaluation.experiment.scores import Results, Setting
from lwd.evaluation.value_episodes import episode_drawings
from lwd.models.checkpoint import load_policy, load_value
from lwd.recipes.reporting import run_data
from lwd.recipes.reproduce.engine import Engine, Status
from lwd.recipes.reproduce.floors import write_floors
from lwd.recipes.reproduce.levels import write_levels
from lwd.recipes.reproduce.plan import Plan, TableName, make_plan
from lwd.recipes.reproduce.processes import Start, start_verb
from lwd.recipes.reproduce.registry import WORDS, Registry
from lwd.recipes.reproduce.runs import CellRuns
from lwd.recipes.reproduce.scale import EVALUATION_SEED, SCALES, WORLD, Scale, ScaleName

_PAGE_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """What to reproduce, and where."""

    table: TableName
    budget: ScaleName
    root: Path
    """Directory of the runs; may be lost when everything is finished."""
    out: Path
    """Directory of the records, the page and its figures."""
    seeds: tuple[int, ...] = ()
    """Training seeds; none: the budget's."""
    jobs: int = 2
    retry_failed: bool = False

    def scale(self) -> Scale:
        scale = SCALES[self.budget]
        return replace(scale, seeds=self.seeds) if self.seeds else scale


class Experiment:
    """The experiment with its results."""

    def __init__(self, config: ReproduceConfig, registry: Registry | None = None, *, start: Start = start_verb) -> None:
        """
        Args:
            registry: of the methods; None: all there are.
            start: starts a verb's process.
        """
        self._registry = registry = registry or Registry()
        self.config = config
        self._written_s = float("-inf")
        scale = config.scale()
        self.plan = make_plan(config.table, scale, registry)
        # The page shows tables and seeds that were not asked for, too, where their records are there.
        seeds = tuple(sorted({*scale.seeds, *SCALES[config.budget].seeds}))
        self._everything = make_plan("all", replace(scale, seeds=seeds), registry)
        self._runs = CellRuns(root=config.root / scale.name, scale=scale, registry=registry, workers=config.jobs)
        self.engine = Engine(
            self.plan,
            self._runs,
            config.out,
            jobs=config.jobs,
            retry_failed=config.retry_failed,
            start=start,
            on_record=lambda cell, record: self._follow(),
        )

    def run(self, *, stop: Callable[[], bool], watch: Callable[[Status], None] = lambda status: None) -> bool:
        """Run what is missing until it is done or `stop()`; return whether it is done."""
        if self.engine.todo():
            write_floors(self._registry.recipe(self.plan.scale.stages, "lwd"), self.config.out)
        done = self.engine.run(stop=stop, watch=watch)
        self.write()
        return done

    def left_s(self) -> float | None:
        """Estimated seconds of what is missing; None: unknown."""
        return self.engine.durations.total_s(self.engine.todo(), self.config.jobs)

    def write(self) -> None:
        """Write the page from the records that are there."""
        self._draw_episodes()
        self._measure_levels()
        self._written_s = time.monotonic()
        others = Engine(self._everything, self._runs, self.config.out, jobs=self.config.jobs)
        left_s = others.durations.total_s(others.todo(), self.config.jobs)
        known = {file_name(cell.name, cell.key) for cell in self._everything.cells}
        other = sum(path.name not in known for path in (self.config.out / "cells").glob("*.json"))
        setting = self._setting(self._everything, left_s, other)
        write_page(Results(setting, others.records.values()), self.config.out)

    def _setting(self, plan: Plan, left_s: float | None, other_records: int) -> Setting:
        scale = plan.scale
        return Setting(
            budget=scale.name,
            seeds=scale.seeds,
            tasks=scale.tasks,
            episodes=scale.episodes,
            evaluation_seed=EVALUATION_SEED,
            world=WORLD,
            robots=scale.robots,
            env_steps=scale.env_steps,
            fleet_sizes=scale.fleet_sizes,
            methods=WORDS,
            planned=len(plan.cells),
            other_records=other_records,
            hours_left=None if left_s is None else left_s / 3600,
        )

    def _follow(self) -> None:
        """Write the page, unless that was done a moment ago: all the intervals of it take seconds."""
        if time.monotonic() - self._written_s > _PAGE_EVERY_S:
            self.write()

    def _measure_levels(self) -> None:
        cells = [cell for cell in self._everything.cells if (cell.method, cell.of) == ("lwd", "offline")]
        write_levels(cells, self._runs, self._registry.recipe(self.plan.scale.stages, "lwd").offline, self.config.out)

    def _draw_episodes(self) -> None:
        """Draw two fleet episodes of LWD online's first seed, if its run is here and they are not drawn yet."""
        cell = next((cell for cell in self._everything.cells if (cell.method, cell.of) == ("lwd", "online")), None)
        if cell is None or not self._runs.finished(cell.parents[0]) or value_figures_of(self.config.out) == cell.key:
            return
        run = self._runs.run_of(cell)
        checkpoint = run.finished("online", "up")
        drawings = episode_drawings(
            run_data(run),
            run.store(),
            load_value(checkpoint.value_path),
            load_policy(checkpoint.policy_path).instructions,
        )
        about = f"Episodes of the fleet of LWD online, seed {cell.seed}: the last success and the last failure."
        write_value_figures(drawings, self.config.out, key=cell.key, about=about)
