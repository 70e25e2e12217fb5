"""Add an account to a run's console, or give it another role and password. Restart the console for it to count.

The password is asked for, or read from standard input if that is no terminal; --proxy-only takes none.
"""

import getpass
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lwd.cli.options import RunOption, console, next_step, run_at
from lwd.commands import lwd_command


def run(
    run: RunOption = Path("runs/demo"),
    name: Annotated[str, tyro.conf.arg(help="who; it is recorded with each step that they drive")] = "operator",
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        tyro.conf.arg(help="what they may do: look; take robots over; also read the audit log"),
    ] = "operator",
    proxy_only: Annotated[
        bool, tyro.conf.arg(help="no password: only a proxy logs them in (`lwd console --proxy-header`)")
    ] = False,
) -> None:
    from lwd.console.accounts import Role
    from lwd.console.server import accounts_of

    directory = run_at(run)
    password = None
    if not proxy_only:
        password = getpass.getpass(f"password of {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    accounts_of(directory).put(name, Role.of(role), password)
    console.print(f"{name} may log in as {role}{' through a proxy' if proxy_only else ''}")
    login = ("--proxy-header", "Remote-User", "--origin", "https://console.example") if proxy_only else ()
    next_step(lwd_command("console", "--run", run, *login))
