"""Print a link that opens a console without accounts in one browser, once. Whoever has it is an administrator.

The console need not be restarted. Links that nobody uses stay good; the last 16 count.
"""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lwd.cli.options import RunOption, console, run_at
from lwd.commands import host_port, lwd_command

LOOPBACK = "127.0.0.1"


def run(
    run: RunOption = Path("runs/demo"),
    port: Annotated[int, tyro.conf.arg(help="port that the console listens on")] = 8787,
    host: Annotated[str, tyro.conf.arg(help="address that it listens on, such as ::1")] = LOOPBACK,
) -> None:
    from lwd.console.links import link_to

    directory = run_at(run)
    _print(link_to(directory.path, port, host), console)


def show_link(run: Path, port: int, to: Console, host: str = LOOPBACK) -> None:
    """Say how to open the console: with a link at a terminal; not in a file, which others may be able to read."""
    from lwd.console.links import link_to

    if to.is_terminal:
        _print(f"console: {link_to(run, port, host)}", to)
    else:
        other = () if host == LOOPBACK else ("--host", host)
        command = lwd_command("console", "link", "--run", run, "--port", port, *other)
        _print(f"console: http://{host_port(host, port)} (`{command}` opens it)", to)


def _print(text: str, to: Console) -> None:
    to.print(text, highlight=False, soft_wrap=True)
