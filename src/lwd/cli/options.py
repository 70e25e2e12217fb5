"""Options that several verbs share, and what they print."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lwd.cli.services import NOTED_STORE, ServiceOptions, StoreOptions
from lwd.errors import ConfigError
from lwd.recipes.advice import no_run
from lwd.recipes.budget import Budget
from lwd.recipes.method_name import MethodName
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.sim import ObservationKind

RunOption = Annotated[Path, tyro.conf.arg(help="directory of the run: its data, checkpoints and report")]
BudgetOption = Annotated[
    Budget,
    tyro.conf.arg(
        help="full; smoke: a few minutes, to see that all runs; large: for a GPU; vla: for a policy of LeRobot's"
    ),
]
MethodOption = Annotated[
    MethodName, tyro.conf.arg(help="LWD, or a method that it is compared with (docs/baselines.md)")
]
QuantileLevelOption = Annotated[
    float | None,
    tyro.conf.arg(metavar="FLOAT", help="of constant_level, which needs it; None: no other takes it"),
]
SeedOption = Annotated[int, tyro.conf.arg(help="seed of weights, batches and noise")]
ObservationOption = Annotated[
    ObservationKind,
    tyro.conf.arg(
        help="what policies see: state tokens, or proprioception and a 64 x 64 camera image (software rendering: slow)"
    ),
]
WorkersOption = Annotated[int, tyro.conf.arg(help="processes that simulate; 0: this one")]
DeviceOption = Annotated[str, tyro.conf.arg(help="torch device such as cpu or cuda")]
ThreadsOption = Annotated[int, tyro.conf.arg(help="CPU threads of the networks' arithmetic")]
WorldOption = Annotated[
    str, tyro.conf.arg(help="world the robots stand in: nominal, or shifted (a deployment that no demonstration shows)")
]
TasksOption = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="[TASK ...]", help="names of tasks; none: all tasks of the robot")
]
ConsoleOption = Annotated[
    bool, tyro.conf.arg(help="also serve the console, on which one watches the robots and takes them over")
]
EnvStepsOption = Annotated[
    int | None,
    tyro.conf.arg(metavar="INT", help="control steps of the whole fleet that end the stage; None: the budget's number"),
]
JsonOption = Annotated[
    bool,
    tyro.conf.arg(name="json", help="print the figures as JSON, and nothing else, to standard output"),
]

# Without markup: a path or an extra in square brackets is no style.
console = Console(markup=False)
status = Console(stderr=True, markup=False)
"""Progress and events; standard output is for results."""


class RateColumn(ProgressColumn):
    """How many per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s", style="progress.data.speed")


@contextmanager
def progress(name: str) -> Iterator["Bar"]:
    """Show a bar with rate and time left."""
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=status) as bars:
        yield Bar(bars, name)


class Bar:
    """One progress bar; it appears with its first update."""

    def __init__(self, bars: Progress, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=None, note="")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Set the bar to `done` of `total`."""
        self._bars.update(self._task, completed=done, total=total, note=note)


def require_device(device: str) -> str:
    """Check that torch has the device.

    Raises:
        ConfigError: if it does not.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used ({reason}): use --device cpu") from error
    return device


def run_at(path: Path, services: StoreOptions = NOTED_STORE, *, begins: bool = False) -> RunDirectory:
    """Return the run directory at a path, with its store and bus noted.

    A run that is not there is made only where the verb begins runs, or where an option says that its store or bus is
    elsewhere: a mistyped path leaves nothing behind.

    Args:
        begins: whether a new run may begin with this verb.
    Raises:
        ConfigError: if the path is something else than a directory, there is no such run, or the run has its store or
            bus elsewhere.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"run {path} is a file: give a directory with --run")
    store = services.store_config()
    bus = services.bus_config() if isinstance(services, ServiceOptions) else None
    if not (begins or path.is_dir() or store or bus):
        raise no_run(path)
    return RunDirectory(path).at(store=store, bus=bus)


_SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def size_bytes(text: str, option: str) -> int:
    """Return the bytes that a size such as `20GiB` or `500 MB` means.

    Raises:
        ConfigError: if it is no size.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _SIZES:
        raise ConfigError(f"{option} is {text!r}; give a size such as 20GiB or 500MB")
    return int(float(match[1]) * _SIZES[match[2].upper()])


def next_step(text: str) -> None:
    """Say what to do next."""
    console.print(Text.assemble(("next:", "green"), f" {text}"), soft_wrap=True)
