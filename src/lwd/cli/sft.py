"""Fit the reference policy f_beta to the run's demonstrations by flow matching.

Ctrl-C saves a checkpoint; the same command continues from it, bit for bit on a CPU.
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
from lwd.recipes.scene import recipe
from lwd.recipes.stages import described, run_sft


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 2,
    where: StoreOptions = NOTED_STORE,
) -> None:
    torch.set_num_threads(threads)
    directory, settings = run_at(run, where), recipe(budget).sft
    directory.write_config("sft", described(settings, seed=seed))
    with watched("sft", "loss/flow", require_device(device)) as control:
        checkpoint = run_sft(directory, settings, seed=seed, control=control)
    finish(checkpoint, f"lwd offline --run {run} --budget {budget}   (or lwd evaluate {checkpoint.policy_path})")
