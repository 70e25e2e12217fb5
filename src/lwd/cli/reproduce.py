"""The paper's experiment in simulation: table1, table2, table3, fleet_size, or all of it. Small takes 7 to 12 hours.

Every finished cell is kept in OUT/cells and never run again, on no machine that has that file. Ctrl-C stops cleanly,
and the same command continues. Writes OUT/experiment.md and OUT/experiment.json.
"""

import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lwd.cli.options import console, status
from lwd.errors import ConfigError
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.reproduce.engine import Status
from lwd.recipes.reproduce.experiment import Experiment, ReproduceConfig
from lwd.recipes.reproduce.plan import TableName
from lwd.recipes.reproduce.scale import ScaleName

_PRINT_EVERY_S = 60.0


def run(
    table: Annotated[
        TableName,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TABLE", help="what to reproduce: table1, table2, table3, fleet_size, or all"),
    ],
    budget: Annotated[
        ScaleName,
        tyro.conf.arg(help="smoke: ten minutes, to see that everything runs; small: two CPU cores; full: a GPU"),
    ] = "small",
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="PATH",
            help="directory of the records and the page; None: docs/results for small, ROOT/BUDGET/results else",
        ),
    ] = None,
    root: Annotated[Path, tyro.conf.arg(help="directory of the runs")] = Path("runs/reproduce"),
    seeds: Annotated[
        tuple[int, ...], tyro.conf.arg(metavar="[INT ...]", help="training seeds; none: the budget's")
    ] = (),
    jobs: Annotated[int, tyro.conf.arg(help="cores: cells that train without a fleet run side by side")] = 2,
    max_minutes: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help="stop cleanly after this time; None: run to the end")
    ] = None,
    retry_failed: Annotated[bool, tyro.conf.arg(help="run cells again that have failed")] = False,
    plan: Annotated[bool, tyro.conf.arg(help="only print what there is to do, and how long it takes")] = False,
) -> None:
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; use at least 1, the number of cores")
    where = out or (Path("docs/results") if budget == "small" else root / budget / "results")
    config = ReproduceConfig(
        table=table, budget=budget, root=root, out=where, seeds=seeds, jobs=jobs, retry_failed=retry_failed
    )
    experiment = Experiment(config)
    if plan:
        Console().print(_plan(experiment))
        return
    deadline_s = float("inf") if max_minutes is None else time.monotonic() + 60 * max_minutes
    watch = _Watch(status)
    with StopRequest() as request, watch:
        done = experiment.run(stop=lambda: request.stop or time.monotonic() > deadline_s, watch=watch)
    console.print(f"results: {where / 'experiment.md'}")
    failed = [record for record in experiment.engine.records.values() if record.failed]
    for record in failed:
        status.print(Text.assemble(("failed", "red"), f" {record.name}: {record.error}"))
    if not done:
        status.print("stopped; the same command continues")
        if request.stop:
            raise KeyboardInterrupt


def _plan(experiment: Experiment) -> Table:
    """What is to be run, by method and stage."""
    cells, durations = experiment.engine.todo(), experiment.engine.durations
    groups: defaultdict[tuple[str, str], list[float | None]] = defaultdict(list)
    for cell in cells:
        groups[cell.stage if cell.of is None else f"evaluate {cell.of}", cell.method].append(durations.estimate_s(cell))
    scale = experiment.plan.scale
    finished = len(experiment.engine.records)
    table = Table(
        title=f"{scale.name}: {finished} of {len(experiment.plan.cells)} evaluation cells are finished",
        box=None,
        title_justify="left",
        pad_edge=False,
    )
    for name in ("stage", "method"):
        table.add_column(name)
    for name in ("cells", "minutes each", "longest"):
        table.add_column(name, justify="right")
    for (stage, method), times in groups.items():
        known = [value for value in times if value is not None]
        each = f"{sum(known) / len(known) / 60:.1f}" if known else "unknown"
        table.add_row(stage, method, str(len(times)), each, f"{max(known) / 60:.1f}" if known else "unknown")
    left_s = experiment.left_s()
    total = "unknown" if left_s is None else f"{left_s / 3600:.1f} hours"
    table.add_section()
    table.add_row("total", f"on {experiment.config.jobs} cores", str(len(cells)), total, "", style="bold")
    return table


class _Watch:
    """Cells that run, with time so far and time expected, and what is left of everything."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=2, transient=True)
        self._console = console
        self._printed_s = float("-inf")

    def __enter__(self) -> "_Watch":
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def __call__(self, state: Status) -> None:
        if self._console.is_terminal:
            self._live.update(_progress(state))
        elif time.monotonic() - self._printed_s > _PRINT_EVERY_S:
            self._printed_s = time.monotonic()
            running = "; ".join(f"{label} {spent_s / 60:.1f} min" for label, spent_s, _ in state.running)
            self._console.print(
                f"{state.finished}/{state.planned} cells, {_left(state)} left; {running}", highlight=False
            )


def _progress(state: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    title = "stopping, what is done is saved" if state.stopping else f"{_left(state)} left"
    table.add_row(f"[bold]{state.finished}/{state.planned} cells[/bold]", title, "")
    for label, spent_s, expected_s in state.running:
        of = "" if expected_s is None else f"of about {expected_s / 60:.1f}"
        table.add_row(f"  {label}", f"{spent_s / 60:.1f} min", of)
    return table


def _left(state: Status) -> str:
    if state.left_s is None:
        return "unknown time"
    return f"{state.left_s / 3600:.1f} h" if state.left_s > 5400 else f"{state.left_s / 60:.0f} min"
