"""A run's directory: where its store, checkpoints, evaluations and report lie."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwd.commands import lwd_command
from lwd.data import durable
from lwd.data.run_store import has_known_a_log, open_run_store
from lwd.data.store import ObjectStore, StoreConfig, directory_of, open_store
from lwd.errors import CheckpointError, ConfigError, LWDError, StoreError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.embodiment import built_in, first_embodiment, read_embodiment
from lwd.fleet.nats_server import url_file
from lwd.recipes.advice import fill
from lwd.recipes.run_record import NAME, RunRecord
from lwd.types import Embodiment

if TYPE_CHECKING:
    from lwd.learner.checkpoint import Checkpoint, CheckpointStore


@dataclass(frozen=True)
class RunDirectory:
    """One run; the directory is created when it is first written."""

    path: Path
    given_bus: BusConfig | None = None
    """A bus that this process alone was given, because its URL holds a secret."""

    def at(self, *, store: StoreConfig | None = None, bus: BusConfig | None = None) -> "RunDirectory":
        """Note where the run's store and bus are, for every later verb; None leaves them as they are.

        A bus whose URL holds a secret is not noted: the returned directory knows it, later verbs do not.

        Raises:
            ConfigError: if a setting is wrong, holds a secret, or if the run has its store or bus elsewhere.
        """
        record = RunRecord.load(self.path)
        noted = record
        if store is not None and (store := self._elsewhere(store)) is not None:
            self._require_no_other_store(store, record.store_config)
            open_store(store, make=False)
            noted = noted.with_store(store)
        if bus is not None:
            bus.client_options()
            if bus.holds_secret:
                return replace(self, given_bus=bus)
            self._require_no_other_bus(bus, record.bus_config)
            noted = noted.with_bus(bus)
        if noted != record:
            noted.save(self.path)
        return self

    @property
    def store_config(self) -> StoreConfig:
        """Where the run's object store is: elsewhere by its record, or its own directory."""
        return RunRecord.load(self.path).store_config or StoreConfig(url=str(self.path / "store"))

    def store(self) -> ObjectStore:
        """The run's object store; every access to it fails while another one is in its place."""
        return open_run_store(self.path, self.store_config)

    def empty_store(self) -> LWDError:
        """Return the error that says what to do about a store without episodes: never to begin a known log again."""
        if (why := has_known_a_log(self.path)) is not None:
            return StoreError(
                f"the log in {self.store_config.url} is empty, but {why}: is the disk mounted? Restore the store from "
                "a copy, or begin a new run with another --run"
            )
        return CheckpointError(f"the store of run {self.path} is empty: {fill(self.path, self.own_embodiment())}")

    def bus(self) -> BusConfig | None:
        """The run's message bus; None: the embedded one that `lwd up` starts."""
        return self.given_bus or RunRecord.load(self.path).bus_config

    def _elsewhere(self, store: StoreConfig) -> StoreConfig | None:
        """Return the store in the form in which it is noted; None if it is the run's own."""
        store.require_no_secret()
        if (directory := directory_of(store)) is None:
            return replace(store, url=store.url.rstrip("/"))
        if directory.absolute() == (self.path / "store").absolute():
            return None
        return replace(store, url=str(directory.absolute()))

    def _require_no_other_store(self, store: StoreConfig, noted: StoreConfig | None) -> None:
        own = self.path / "store"
        if noted is None and own.is_dir() and any(own.iterdir()):
            raise ConfigError(
                f"run {self.path} has its data in {own}, not in {store.url}: leave --store out; to move the data, stop "
                f"everything, copy that directory, and rename it"
            )
        if noted is not None and noted != store:
            raise ConfigError(
                f"run {self.path} has its store at {noted.url} with options {dict(noted.options)}, not at {store.url} "
                f"with {dict(store.options)}: leave --store out; if it moved, change {self.path / NAME}"
            )

    def _require_no_other_bus(self, bus: BusConfig, noted: BusConfig | None) -> None:
        if noted is None and (own := url_file(self.path / "nats")).exists():
            raise ConfigError(
                f"run {self.path} has its own message bus ({own.parent}), not {bus.hosts}: leave --nats-url out, or "
                "stop everything and delete that directory; nothing is lost with it"
            )
        if noted is not None and noted != bus:
            raise ConfigError(
                f"run {self.path} has another message bus, {noted}, than {bus}: "
                f"leave the --nats options out; if it moved, change {self.path / NAME}"
            )

    def embodiment(self) -> Embodiment:
        """Return the embodiment that the run's episodes are of.

        Raises:
            CheckpointError: if the run's store has no episodes yet.
            StoreError: if it had some.
        """
        name = first_embodiment(self.store())
        if name is None:
            raise self.empty_store()
        own = self.own_embodiment()
        return own if own is not None and own.name == name else built_in(name)

    @property
    def embodiment_path(self) -> Path:
        """The file that describes the run's robot, where it is not a built-in one."""
        return self.path / "embodiment.json"

    def own_embodiment(self) -> Embodiment | None:
        """Return the embodiment that the run's file describes; None without one.

        Raises:
            ConfigError: if the file is wrong.
        """
        return read_embodiment(self.embodiment_path) if self.embodiment_path.exists() else None

    def checkpoints(self, stage: str) -> "CheckpointStore":
        """The checkpoints of a stage."""
        # Here, not above: it loads torch, which a coordinator does without.
        from lwd.learner.checkpoint import CheckpointStore

        return CheckpointStore(self.path / "checkpoints" / stage)

    def finished(self, stage: str, verb: str) -> "Checkpoint":
        """Return a stage's last checkpoint.

        Raises:
            CheckpointError: if the stage has none or was not finished; the message names the command to run.
        """
        found = self.checkpoints(stage).latest()
        if found is None or not found.progress.finished:
            state = "has not begun" if found is None else f"stopped at update {found.progress.update}"
            command = lwd_command(verb, "--run", self.path)
            raise CheckpointError(f"stage {stage!r} of run {self.path} {state}: run `{command}`")
        return found

    def read_config(self) -> dict[str, Any]:
        """Return the configurations that verbs have saved, by name.

        Raises:
            ConfigError: if the file is damaged.
        """
        path = self.path / "config.json"
        try:
            everything = json.loads(path.read_bytes())
            if not isinstance(everything, dict):
                raise ValueError("no JSON object")
        except FileNotFoundError:
            return {}
        except (ValueError, OSError, RecursionError) as error:
            raise ConfigError(
                f"{path} is damaged ({type(error).__name__}): delete it; it notes settings for people and the report, "
                "and every verb writes its own again"
            ) from error
        return everything

    def write_config(self, name: str, config: Any) -> None:
        """Save a resolved configuration beside the results, as JSON under `name`.

        Raises:
            ConfigError: if the file is damaged.
        """
        everything = self.read_config()
        everything[name] = config
        durable.replace(self.path / "config.json", json.dumps(everything, indent=2, default=str).encode())

    def lock_path(self, stage: str) -> Path:
        """The file that `locked` locks."""
        return self.path / "checkpoints" / f"{stage}.lock"

    @contextmanager
    def locked(self, stage: str) -> Iterator[None]:
        """Let only one process run a stage of this run.

        Raises:
            ConfigError: if another process runs it.
            StoreError: if the run cannot be written.
        """
        path = self.lock_path(stage)
        with durable.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process runs stage {stage!r} of {self.path}: wait for it, or use another --run"
            ) from error
        else:
            yield
        finally:
            os.close(descriptor)
