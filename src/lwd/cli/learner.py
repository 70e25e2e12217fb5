"""Learn online: train on offline and fleet data at 1:1, publish a policy every 50 updates, checkpoint.

Killed at any moment, it continues from its last checkpoint on the same snapshots in the same order.
"""

import logging
from pathlib import Path

from lwd.cli.options import BudgetOption, DeviceOption, RunOption, SeedOption, console, require_device, run_at
from lwd.learner.online import OnlineStage
from lwd.recipes.fleet_learner import LearnerConfig, run_learner, with_fleet
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.scene import recipe


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: int = 1,
    env_steps: int | None = None,
    max_seconds: float | None = None,
    nats_url: str | None = None,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = with_fleet(recipe(budget), robots=None, env_steps=env_steps, world=None)
    config = LearnerConfig(
        seed=seed,
        device=require_device(device),
        threads=threads,
        nats_url=nats_url,
        max_seconds=max_seconds,
    )

    def say(stage: OnlineStage) -> None:
        progress = stage.progress
        console.print(
            f"update {progress.update}  snapshot {progress.snapshot}  policy {progress.policy_version}  "
            f"fleet steps {stage.reader.env_steps}/{settings.fleet.env_steps}",
            highlight=False,
        )

    with StopRequest() as request:
        run_learner(run_at(run), settings, config, stop=lambda: request.stop, report=say)
