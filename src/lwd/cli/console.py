"""Serve a run's console: live robots, take-over by keyboard, learning curves and episodes, in a browser.

On loopback a link opens it, which is printed here and by `lwd console link`: whoever may read the run's directory is an
administrator. On any other address it needs accounts, which `lwd console account` adds, or a proxy that logs people in
(--proxy-header); put a proxy with TLS before it and name the proxy's origin.
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lwd.cli.console_link import show_link
from lwd.cli.options import RunOption, run_at, status
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.errors import ConfigError


def run(
    run: RunOption = Path("runs/demo"),
    host: Annotated[str, tyro.conf.arg(help="address to listen on; any but loopback needs a login")] = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(help="TCP port to listen on")] = 8787,
    origin: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[URL ...]", help="where browsers find it, such as https://console.example; none: its own address"
        ),
    ] = (),
    proxy_header: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME",
            help="header in which an authenticating proxy names who is logged in, such as Remote-User; "
            "None: passwords, if there are accounts",
        ),
    ] = None,
    proxy_secret_file: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help="mode 0600; what the proxy sends in X-LWD-Proxy-Secret to be believed; None: no proxy",
        ),
    ] = None,
    proxy: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[ADDRESS ...]",
            help="addresses or networks of that proxy, from which alone the header counts; none: 127.0.0.1 and ::1",
        ),
    ] = (),
    proxy_role: Annotated[
        Literal["viewer", "operator", "admin"] | None,
        tyro.conf.arg(help="what names without an account may do; None: they are refused"),
    ] = None,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    from lwd.console.accounts import Role
    from lwd.console.proxy import LOOPBACK, ProxyLogin, read_secret
    from lwd.console.server import ConsoleConfig, run_console

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    login = None
    if proxy_header is not None:
        if proxy_secret_file is None:
            raise ConfigError(
                "proxy_header is given without proxy_secret_file: every user of the proxy's machine could be anybody; "
                "give --proxy-secret-file FILE, and let the proxy send its content in X-LWD-Proxy-Secret"
            )
        role = None if proxy_role is None else Role.of(proxy_role)
        secret = read_secret(proxy_secret_file)
        login = ProxyLogin(header=proxy_header, secret=secret, peers=proxy or LOOPBACK, role=role)
    else:
        useless = {"proxy": " ".join(proxy), "proxy_role": proxy_role, "proxy_secret_file": proxy_secret_file}
        for name, value in useless.items():
            if value:
                raise ConfigError(
                    f"{name} is {value}, and no proxy_header is given: give --proxy-header Remote-User, too"
                )
    run_console(
        ConsoleConfig(run=run_at(run, where), host=host, port=port, origins=origin, proxy=login),
        lambda config: show_link(config.run.path, config.port, status, config.host),
    )
