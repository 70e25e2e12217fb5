"""The whole of LWD on this machine: data, SFT, offline learning, a learning fleet, evaluations, a report.

Every part that is finished is kept: the same command continues where it was interrupted.
"""

import sys
from pathlib import Path

from rich.text import Text

from lwd.cli.options import BudgetOption, ConsoleOption, ObservationOption, RunOption, SeedOption, run_at
from lwd.cli.options import console as terminal
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.commands import lwd_command
from lwd.errors import ConfigError, LWDError
from lwd.recipes.advice import require_simulated
from lwd.recipes.interrupt import run_interruptibly
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import recipe


class StepFailed(LWDError):
    """A step of the demo ended with an error, which it has printed itself."""


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    observation: ObservationOption = "state",
    console: ConsoleOption = False,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    directory = run_at(run, where, begins=True)
    require_simulated(run, directory.own_embodiment())
    _require_same(directory, {"budget": budget, "seed": seed, "observation": observation})
    settings = recipe(budget)
    at, same = ("--run", str(run)), ("--budget", budget)
    seeded = ("--seed", str(seed))
    episodes = ("--episodes", str(settings.evaluation_episodes))
    steps: list[tuple[str, ...]] = [
        ("data", "generate", *at, *same, "--observation", observation),
        ("sft", *at, *same, *seeded),
        ("offline", *at, *same, *seeded),
        ("evaluate", str(run), "--method", "sft", *episodes),
        ("evaluate", str(run), "--method", "lwd_offline", *episodes),
        ("up", *at, *same, *seeded, *(("--console",) if console else ())),
        ("evaluate", str(run), "--method", "lwd_online", *episodes),
        ("report", str(run)),
    ]
    for number, step in enumerate(steps, start=1):
        title = Text.assemble((f"{number}/{len(steps)}", "bold"), f"  {lwd_command(*step)}")
        terminal.rule(title, align="left")
        status = run_interruptibly((sys.executable, "-m", "lwd", *step))
        if status == 130:
            raise KeyboardInterrupt
        if status != 0:
            raise StepFailed(f"`{lwd_command(*step)}` failed; mend it and run the same demo command again")
    terminal.print(f"open {directory.path / 'report.html'} in a browser")


def _require_same(directory: RunDirectory, settings: dict[str, str | int]) -> None:
    """Note the demo's settings in its run; one run is one demo.

    Raises:
        ConfigError: if the run's demo was begun with other settings.
    """
    before = directory.read_config().get("demo")
    for name, value in settings.items():
        if isinstance(before, dict) and before.get(name) != value:
            raise ConfigError(
                f"the demo in {directory.path} was begun with --{name} {before.get(name)}, now it is {value}: give it "
                "a directory of its own with --run"
            )
    directory.write_config("demo", settings)
