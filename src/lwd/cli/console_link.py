"""Print a link that opens a console without accounts in one browser, once. Whoever has it is an administrator.

The console need not be restarted. Links that nobody uses stay good; the last 16 count.
"""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lwd.cli.options import RunOption, console, run_at
from lwd.errors import ConfigError


def run(
    run: RunOption = Path("runs/demo"),
    port: Annotated[int, tyro.conf.arg(help="port that the console listens on")] = 8787,
) -> None:
    from lwd.console.links import link_to

    directory = run_at(run)
    if not directory.path.is_dir():
        raise ConfigError(f"run {run} does not exist: make it with `lwd demo` or `lwd up`")
    _print(link_to(directory.path, port), console)


def show_link(run: Path, port: int, to: Console) -> None:
    """Say how to open the console: with a link at a terminal; not in a file, which others may be able to read."""
    from lwd.console.links import link_to

    if to.is_terminal:
        _print(f"console: {link_to(run, port)}", to)
    else:
        _print(f"console: http://127.0.0.1:{port} (`lwd console link --run {run} --port {port}` opens it)", to)


def _print(text: str, to: Console) -> None:
    to.print(text, highlight=False, soft_wrap=True)
