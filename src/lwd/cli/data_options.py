"""Options and tables that the `lwd data` verbs share."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lwd.cli.options import console, run_at
from lwd.data.log import EpisodeEntry, log_key
from lwd.data.selection import Selection, parse_time
from lwd.data.store import ObjectStore, get_or_none

RobotOption = Annotated[str | None, tyro.conf.arg(metavar="ID", help="episodes of this robot; None: of every robot")]
SinceOption = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="TIME",
        help="episodes that began at or after it, by the robot's clock: ISO 8601 such as 2026-11-25T04:00Z or "
        "2026-11-25 (no zone: UTC), or Unix seconds; None: from the first one",
    ),
]
UntilOption = Annotated[
    str | None, tyro.conf.arg(metavar="TIME", help="episodes that began before it; None: to the last one")
]
TaskOption = Annotated[str | None, tyro.conf.arg(metavar="NAME", help="episodes of this task; None: of every task")]
PolicyVersionOption = Annotated[
    int | None,
    tyro.conf.arg(
        metavar="INT", help="episodes that this policy acted in (-1: no policy, as demonstrations); None: all"
    ),
]
EpisodeOption = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="[ROBOT/ID ...]", help="episodes, an id alone where one robot has it; none: not chosen so"),
]


def selection(
    robot: str | None,
    since: str | None,
    until: str | None,
    task: str | None,
    policy_version: int | None,
    episode: Sequence[str],
) -> Selection:
    """Return what the options select.

    Raises:
        ConfigError: if a time is none.
    """
    return Selection(
        robot=robot,
        since_s=None if since is None else parse_time("since", since),
        until_s=None if until is None else parse_time("until", until),
        task=task,
        policy_version=policy_version,
        episodes=frozenset(episode),
    )


def store_at(run: Path) -> ObjectStore:
    """Open the store of a run that has one; a mistyped path makes no new one.

    Raises:
        ConfigError: if the run has no store.
        CheckpointError: if its store has no episodes yet.
        StoreError: if it had some, or is not the run's.
    """
    directory = run_at(run)
    store = directory.store()
    if get_or_none(store, log_key(1)) is None:
        raise directory.empty_store()
    return store


def print_json(rows: Any) -> None:
    """Print for machines; nothing else may go to standard output then."""
    json.dump(rows, sys.stdout, indent=1)
    print()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table whose columns named in `numbers` are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        # Folded, never cut: an id that lost its end cannot be used in the next command.
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Piped into grep or a file, a row stays one line.
    (console if console.is_terminal else Console(width=10_000)).print(table)


def per_task(entries: Sequence[EpisodeEntry]) -> list[tuple[str, int, int]]:
    """Return (task, episodes, steps), sorted by task."""
    tasks: dict[str, list[EpisodeEntry]] = {}
    for entry in entries:
        tasks.setdefault(entry.task, []).append(entry)
    return [(task, len(found), sum(entry.steps for entry in found)) for task, found in sorted(tasks.items())]


def size_in_words(size_bytes: int) -> str:
    """Return a number of bytes with a unit."""
    size = float(size_bytes)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
