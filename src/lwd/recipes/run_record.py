"""RUN/run.json: where a run's store and bus are, if they are not its own.

It is written once, by the verb that is first given them; later verbs need no options. It never holds a secret.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lwd.data import durable
from lwd.data.plain_file import read_plain_file
from lwd.data.store import StoreConfig
from lwd.errors import ConfigError
from lwd.fleet.bus_config import BusConfig

NAME = "run.json"
_MAX_BYTES = 1 << 20


class RunRecord(BaseModel):
    """What the file says; the names are those of the command line's options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str | None = None
    store_options: dict[str, str] = {}
    nats_urls: tuple[str, ...] = ()
    nats_credentials: Path | None = None
    nats_ca: Path | None = None
    nats_cert: Path | None = None
    nats_key: Path | None = None
    nats_replicas: int | None = None

    @classmethod
    def load(cls, run: Path) -> "RunRecord":
        """Read a run's record; an empty one if it has none.

        Raises:
            ConfigError: if the file is damaged or holds a secret.
        """
        path = run / NAME
        try:
            content = read_plain_file(path, max_bytes=_MAX_BYTES)
            if content is None:
                return cls()
            record = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ConfigError(
                f"{path}: {where}: {first['msg']}; correct it, or delete it and give the options"
            ) from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): it must be a readable file") from error
        if record.store_config is not None:
            record.store_config.require_no_secret()
        if record.bus_config is not None and record.bus_config.holds_secret:
            raise ConfigError(f"{path}: a URL of nats_urls holds a secret: put it into a file, nats_credentials")
        return record

    @property
    def store_config(self) -> StoreConfig | None:
        return None if self.store is None else StoreConfig(url=self.store, options=self.store_options)

    @property
    def bus_config(self) -> BusConfig | None:
        if not self.nats_urls:
            return None
        return BusConfig(
            urls=self.nats_urls,
            credentials=self.nats_credentials,
            ca=self.nats_ca,
            certificate=self.nats_cert,
            key=self.nats_key,
            replicas=self.nats_replicas,
        )

    def with_store(self, config: StoreConfig) -> "RunRecord":
        return self.model_copy(update={"store": config.url, "store_options": dict(config.options)})

    def with_bus(self, config: BusConfig) -> "RunRecord":
        return self.model_copy(
            update={
                "nats_urls": config.urls,
                "nats_credentials": config.credentials,
                "nats_ca": config.ca,
                "nats_cert": config.certificate,
                "nats_key": config.key,
                "nats_replicas": config.replicas,
            }
        )

    def save(self, run: Path) -> None:
        """Write the record durably."""
        durable.replace(run / NAME, self.model_dump_json(indent=2, exclude_defaults=True).encode())
