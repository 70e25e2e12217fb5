"""A run's directory: where its store, checkpoints, evaluations and report lie."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwd.data import durable
from lwd.data.store import ObjectStore, open_store
from lwd.errors import CheckpointError, ConfigError
from lwd.fleet.embodiment import built_in, first_embodiment
from lwd.learner.checkpoint import Checkpoint, CheckpointStore
from lwd.types import Embodiment


@dataclass(frozen=True)
class RunDirectory:
    """One run; the directory is created when it is first written."""

    path: Path

    def store(self) -> ObjectStore:
        """The run's own object store."""
        return open_store(self.path / "store")

    def embodiment(self) -> Embodiment:
        """Return the embodiment that the run's episodes are of.

        Raises:
            CheckpointError: if the run's store has no episodes yet.
        """
        name = first_embodiment(self.store())
        if name is None:
            raise CheckpointError(f"the store of run {self.path} is empty: run `lwd data generate --run {self.path}`")
        return built_in(name)

    def checkpoints(self, stage: str) -> CheckpointStore:
        """The checkpoints of a stage."""
        return CheckpointStore(self.path / "checkpoints" / stage)

    def finished(self, stage: str, verb: str) -> Checkpoint:
        """Return a stage's last checkpoint.

        Raises:
            CheckpointError: if the stage has none or was not finished; the message names the command to run.
        """
        found = self.checkpoints(stage).latest()
        if found is None or not found.progress.finished:
            state = "has not begun" if found is None else f"stopped at update {found.progress.update}"
            raise CheckpointError(f"stage {stage!r} of run {self.path} {state}: run `lwd {verb} --run {self.path}`")
        return found

    def write_config(self, name: str, config: Any) -> None:
        """Save a resolved configuration beside the results, as JSON under `name`."""
        path = self.path / "config.json"
        everything = json.loads(path.read_text()) if path.exists() else {}
        everything[name] = config
        durable.replace(path, json.dumps(everything, indent=2, default=str).encode())

    @contextmanager
    def locked(self, stage: str) -> Iterator[None]:
        """Let only one process run a stage of this run.

        Raises:
            ConfigError: if another process runs it.
        """
        path = self.path / "checkpoints" / f"{stage}.lock"
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
