"""Checkpoints of a stage: complete, verified, and never half there.

A checkpoint is a directory `update-000001234` with the policy, the value network, the algorithm's full state and a
manifest that names their hashes. It is written beside its final name, flushed, and renamed: a crash leaves either
the whole new checkpoint or none of it, and the earlier ones untouched.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lwd.data import durable
from lwd.errors import CheckpointError, ResumeError, StoreError
from lwd.learner.state_file import load_state_bytes, state_bytes
from lwd.models.checkpoint import sha256_of

MANIFEST = "manifest.json"
POLICY = "policy.safetensors"
VALUE = "value.safetensors"
STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a stage stands; stored in the manifest."""

    stage: str
    update: int
    snapshot: int
    policy_version: int
    finished: bool
    processes: int = 1
    """That train together; each has a random generator of its own in the state."""
    snapshot_sha256: str = ""
    """Of the snapshot's log entry, so that another log is recognised; empty in checkpoints of earlier versions."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk whose files were verified."""

    directory: Path
    progress: Progress
    config: dict[str, Any]
    sha256: dict[str, str]
    """Hash of every file by its name."""

    @property
    def policy_path(self) -> Path:
        return self.directory / POLICY

    @property
    def value_path(self) -> Path:
        return self.directory / VALUE

    def state_file(self) -> bytes:
        """Return the algorithm's full state as it is stored."""
        return (self.directory / STATE).read_bytes()

    def state(self) -> dict[str, Any]:
        """Load the algorithm's full state."""
        return load_state_bytes(self.state_file())


class CheckpointStore:
    """The checkpoints of one stage, newest last; older ones are removed once a newer one is safe."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep
        self.newest: Checkpoint | None = None
        """What `latest` or `save` of this object returned last."""

    def save(
        self,
        progress: Progress,
        *,
        policy: bytes,
        value: bytes | None,
        state: dict[str, Any],
        config: dict[str, Any],
    ) -> Checkpoint:
        """Write one checkpoint; saving the same update again only updates its manifest.

        Raises:
            CheckpointError: if another state of this update is stored.
            StoreError: if the disk is full or not writable; earlier checkpoints stay.
        """
        final = self.directory / f"update-{progress.update:09d}"
        files = {POLICY: policy, STATE: state_bytes(state)} | ({} if value is None else {VALUE: value})
        manifest = {
            "progress": vars(progress),
            "sha256": {name: sha256_of(data) for name, data in files.items()},
            "config": config,
        }
        files[MANIFEST] = json.dumps(manifest, indent=2).encode()
        if final.exists():
            # Nothing was trained since (a finished or resumed stage): only the manifest says more than before.
            if open_checkpoint(final).sha256 != manifest["sha256"]:
                raise CheckpointError(f"{final} holds another state of the same update: move it away")
            durable.replace(final / MANIFEST, files[MANIFEST])
        else:
            self._write(final, files)
        for old in self._paths()[: -self.keep]:
            shutil.rmtree(old)
        self.newest = open_checkpoint(final)
        return self.newest

    def _write(self, final: Path, files: dict[str, bytes]) -> None:
        # One process at a time runs a stage: what a crash has left half written is nobody's.
        for rest in self.directory.glob(".writing-*"):
            shutil.rmtree(rest)
        staging = self.directory / f".writing-{os.getpid()}"
        try:
            for name, data in files.items():
                durable.write_new(staging / name, data)
            durable.move(staging, final)
        except StoreError:
            # On a full disk the half checkpoint would take the last space away.
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint, verified, or None if the stage has none.

        Raises:
            ResumeError: if the newest checkpoint is damaged; the message names it and the one before.
        """
        paths = self._paths()
        if not paths:
            return None
        try:
            self.newest = open_checkpoint(paths[-1])
            return self.newest
        except CheckpointError as error:
            remedy = f"remove it to continue from {paths[-2].name}" if len(paths) > 1 else "start the stage again"
            raise ResumeError(f"{error}; {remedy}") from error

    def newest_path(self) -> Path | None:
        """Return where the newest checkpoint is, unread."""
        return next(reversed(self._paths()), None)

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("update-*"))


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open one checkpoint and verify its files against the manifest.

    Raises:
        CheckpointError: if a file is missing or does not have the hash that the manifest names.
    """
    try:
        manifest = _Manifest.model_validate_json((directory / MANIFEST).read_bytes())
        hashes = manifest.sha256
        for name, expected in hashes.items():
            found = sha256_of((directory / name).read_bytes())
            if found != expected:
                raise CheckpointError(f"{directory / name} has sha256 {found[:12]}, its manifest says {expected[:12]}")
    except OSError as error:
        raise CheckpointError(f"checkpoint {directory} lacks {error.filename}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise CheckpointError(f"{directory / MANIFEST} is no manifest ({where}: {first['msg']})") from error
    return Checkpoint(directory=directory, progress=manifest.progress, config=manifest.config, sha256=hashes)


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    progress: Progress
    sha256: dict[str, str]
    config: dict[str, Any]
