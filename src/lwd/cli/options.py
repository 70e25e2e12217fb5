"""Options that several verbs share, and what they print."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

from lwd.errors import ConfigError
from lwd.recipes.budget import Budget
from lwd.robots.sim import ObservationKind

if TYPE_CHECKING:
    from lwd.recipes.run_directory import RunDirectory

RunOption = Annotated[Path, tyro.conf.arg(help="directory of the run: its data, checkpoints and report")]
BudgetOption = Annotated[Budget, tyro.conf.arg(help="full, or smoke: a few minutes to see that everything runs")]
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
EnvStepsOption = Annotated[
    int | None,
    tyro.conf.arg(metavar="INT", help="control steps of the whole fleet that end the stage; None: the budget's number"),
]
NatsUrlOption = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="URL", help="message bus, nats://[TOKEN@]HOST:PORT; None: the one `lwd up` started for the run"
    ),
]
JsonOption = Annotated[
    bool,
    tyro.conf.arg(name="json", help="print the figures as JSON, and nothing else, to standard output"),
]

console = Console()
status = Console(stderr=True)
"""Progress and events; standard output is for results."""


class RateColumn(ProgressColumn):
    """How many per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s", style="progress.data.speed")


@contextmanager
def progress(name: str) -> Iterator["Bar"]:
    """Show a bar with rate and time left."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
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


def run_path(path: Path) -> Path:
    """Return the path of a run's directory, which need not exist yet.

    Raises:
        ConfigError: if the path is something else than a directory.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"run {path} is a file: give a directory with --run")
    return path


def run_at(path: Path) -> "RunDirectory":
    """Return the run directory at a path.

    Raises:
        ConfigError: if the path is something else than a directory.
    """
    # Here, not above: it loads torch, which coordinators do without.
    from lwd.recipes.run_directory import RunDirectory

    return RunDirectory(run_path(path))


def next_step(text: str) -> None:
    """Say what to do next."""
    console.print(f"[green]next:[/green] {text}", soft_wrap=True)
