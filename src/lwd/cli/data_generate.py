"""Make the offline data with scripted experts: demonstrations, mixed rollouts and play, into the run's store.

Episodes that are there already are not made again, so an interrupted command continues.
"""

from dataclasses import asdict
from pathlib import Path

from lwd.cli.options import BudgetOption, RunOption, console, next_step, progress, run_at
from lwd.recipes.offline_data import composition_table
from lwd.recipes.prepare import generate_into
from lwd.recipes.scene import recipe


def run(run: RunOption = Path("runs/demo"), budget: BudgetOption = "full", workers: int = 2) -> None:
    directory = run_at(run)
    config = recipe(budget).data
    directory.write_config("data", asdict(config))
    with progress("data") as bar:
        rows = generate_into(directory, config, workers=workers, progress=bar)
    console.print(composition_table(rows))
    console.print(f"chart: {directory.path / 'composition.png'}")
    next_step(f"lwd sft --run {run} --budget {budget}")
