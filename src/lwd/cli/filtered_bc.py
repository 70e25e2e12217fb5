"""The imitation control: train the SFT policy on by cloning what is worth imitating in a finished fleet run.

Demonstrations, successes and human corrections of the run's offline and fleet data, at 1:1.
"""

from pathlib import Path

import torch

from lwd.cli.options import (
    BudgetOption,
    DeviceOption,
    RunOption,
    SeedOption,
    ThreadsOption,
    require_device,
    run_at,
)
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.cli.stage_progress import finish, watched
from lwd.recipes.advice import after_fleet
from lwd.recipes.scene import recipe
from lwd.recipes.stages import run_filtered_bc


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 2,
    where: StoreOptions = NOTED_STORE,
) -> None:
    torch.set_num_threads(threads)
    settings = recipe(budget)
    directory = run_at(run, where)
    with watched("filtered_bc", "loss/flow", require_device(device)) as control:
        checkpoint = run_filtered_bc(
            directory, settings, updates=settings.imitation_updates, seed=seed, control=control
        )
    finish(checkpoint, lambda: after_fleet(run, directory.embodiment(), "filtered_bc"))
