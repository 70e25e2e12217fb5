"""Start a fleet on this machine: message bus, coordinator, learner and simulated robots, each a process.

Ends when the online stage has used its fleet steps, or on Ctrl-C; the same command continues. Logs are in RUN/logs.
"""

from pathlib import Path

from lwd.cli.fleet_progress import watch_fleet
from lwd.cli.options import (
    BudgetOption,
    DeviceOption,
    RunOption,
    SeedOption,
    next_step,
    require_device,
    run_at,
)
from lwd.recipes.fleet_up import FleetUp, run_fleet
from lwd.recipes.scene import recipe


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    robots: int | None = None,
    hosts: int | None = None,
    env_steps: int | None = None,
    world: str | None = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    nats_port: int | None = None,
) -> None:
    directory = run_at(run)
    fleet = FleetUp(
        budget=budget,
        robots=robots or recipe(budget).fleet.robots,
        hosts=hosts,
        env_steps=env_steps or recipe(budget).fleet.env_steps,
        world=world or recipe(budget).fleet.world,
        seed=seed,
        device=require_device(device),
        nats_port=nats_port,
    )
    with watch_fleet(directory, fleet.env_steps) as on_event:
        run_fleet(directory, fleet, on_event=on_event)
    next_step(f"lwd evaluate {run} --method lwd_online, then lwd report {run}")
