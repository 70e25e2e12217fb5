"""Serve a run's console: live robots, take-over by keyboard, learning curves and episodes, in a browser.

On loopback whoever reaches this machine may do everything. On any other address it needs accounts, which
`lwd console account` adds; put a proxy with TLS before it and name the proxy's origin.
"""

import logging
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import RunOption, run_at
from lwd.cli.services import NOTED_SERVICES, ServiceOptions


def run(
    run: RunOption = Path("runs/demo"),
    host: Annotated[str, tyro.conf.arg(help="address to listen on; any but loopback needs accounts")] = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(help="TCP port to listen on")] = 8787,
    origin: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[URL ...]", help="where browsers find it, such as https://console.example; none: its own address"
        ),
    ] = (),
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    from lwd.console.server import ConsoleConfig, run_console

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_console(ConsoleConfig(run=run_at(run, where), host=host, port=port, origins=origin))
