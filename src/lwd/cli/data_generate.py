"""Make the offline data with scripted experts: demonstrations, mixed rollouts and play, into the run's store.

Episodes that are there already are not made again, so an interrupted command continues.
"""

from dataclasses import asdict, replace
from pathlib import Path

from lwd.cli.options import (
    BudgetOption,
    ObservationOption,
    RunOption,
    WorkersOption,
    console,
    next_step,
    progress,
    run_at,
)
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.commands import lwd_command
from lwd.recipes.advice import require_simulated
from lwd.recipes.offline_data import composition_table
from lwd.recipes.prepare import generate_into
from lwd.recipes.scene import recipe
from lwd.robots.sim import embodiment_seeing


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    observation: ObservationOption = "state",
    workers: WorkersOption = 2,
    where: StoreOptions = NOTED_STORE,
) -> None:
    directory = run_at(run, where, begins=True)
    require_simulated(run, directory.own_embodiment())
    config = replace(recipe(budget).data, embodiment=embodiment_seeing(observation))
    directory.write_config("data", asdict(config))
    with progress("data") as bar:
        rows = generate_into(directory, config, workers=workers, progress=bar)
    console.print(composition_table(rows))
    console.print(f"chart: {directory.path / 'composition.png'}")
    next_step(lwd_command("sft", "--run", run, "--budget", budget))
