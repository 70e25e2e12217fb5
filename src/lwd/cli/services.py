"""Options that say where a run's store and message bus are; noted in RUN/run.json when they are first given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lwd.data.store import StoreConfig
from lwd.errors import ConfigError
from lwd.fleet.bus_config import BusConfig

_NOTED = "None: as RUN/run.json notes, or the run's own"


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where the run's data is."""

    store: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="URL",
            help="object store: a directory or s3://BUCKET/PREFIX, its secrets in AWS_* of the environment; "
            "None: as RUN/run.json notes, or RUN/store",
        ),
    ] = None
    store_option: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[KEY=VALUE ...]", help="settings of an S3 store, such as endpoint=https://HOST or region=NAME"
        ),
    ] = ()

    def store_config(self) -> StoreConfig | None:
        """Return the store; None if no option was given.

        Raises:
            ConfigError: if an option is malformed or holds a secret.
        """
        if self.store is None:
            if self.store_option:
                raise ConfigError("--store-option is given without --store: give the store's URL, too")
            return None
        options: dict[str, str] = {}
        for option in self.store_option:
            name, separator, value = option.partition("=")
            if not separator or not name:
                # Not the option itself: it may be a secret.
                raise ConfigError("a --store-option has no `=`: give KEY=VALUE, such as region=us-east-1")
            options[name] = value
        config = StoreConfig(url=self.store, options=options)
        config.require_no_secret()
        return config


@dataclass(frozen=True, kw_only=True)
class ServiceOptions(StoreOptions):
    """Where the run's data and its message bus are."""

    nats_url: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="URL[,URL...]",
            help="message bus: nats://HOST:PORT or tls://HOST:PORT, all servers of a cluster; "
            "None: as RUN/run.json notes, or the one that `lwd up` starts",
        ),
    ] = None
    nats_credentials: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help=f"the bus's .creds file (JWT and nkey seed); {_NOTED}")
    ] = None
    nats_ca: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help="PEM certificates to check the bus's servers against; None: the system's"),
    ] = None
    nats_cert: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help="our PEM certificate, where the bus wants one; None: no such")
    ] = None
    nats_key: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help="its private key; None: no such")] = None
    nats_replicas: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help="servers of a cluster that keep a copy: 1, 3 or 5; None: 1, or as it is"),
    ] = None

    def bus_config(self) -> BusConfig | None:
        """Return the bus; None if no option was given.

        Raises:
            ConfigError: if an option is wrong, or the URL is missing.
        """
        rest = (self.nats_credentials, self.nats_ca, self.nats_cert, self.nats_key, self.nats_replicas)
        if self.nats_url is None:
            if any(option is not None for option in rest):
                raise ConfigError("options of the bus are given without --nats-url: give the servers' URLs, too")
            return None
        return BusConfig(
            urls=tuple(url.strip() for url in self.nats_url.split(",") if url.strip()),
            credentials=_absolute(self.nats_credentials),
            ca=_absolute(self.nats_ca),
            certificate=_absolute(self.nats_cert),
            key=_absolute(self.nats_key),
            replicas=self.nats_replicas,
        )


NOTED_STORE = StoreOptions()
NOTED_SERVICES = ServiceOptions()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
