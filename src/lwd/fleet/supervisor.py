"""`lwd up`: starts the bus and the processes of a run, restarts what crashes, stops everything in order.

A process whose main loop stands still is named, again and again at growing intervals; what recovers is left alone.
No child outlives the supervisor, even if it is killed with -9.
"""

import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lwd.data import durable
from lwd.errors import MISCONFIGURED, TRY_AGAIN, WRONG_USAGE, ConfigError, ProcessFailed, ServiceError
from lwd.fleet.frozen import FrozenWatch
from lwd.fleet.kept_server import KeptServer
from lwd.fleet.liveness import Pulse
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.process import spawn, stop_all

_POLL_S = 0.1
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_STABLE_S = 60.0
"""A process that ran so long has its backoff forgiven."""
_PATIENCE_S = 20.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """One process of a run."""

    name: str
    command: tuple[str, ...]
    """Such as (sys.executable, "-m", "lwd", "coordinator", ...)."""
    restart: Literal["always", "temporary"] = "always"
    """Start it again when it ends with an error, unless a setting is wrong (exit status 78, or 2 for a wrong command
    line): that ends the run. "temporary": only where the next try may succeed (exit status 75: a store or bus that does
    not answer) or where a signal killed it; any other error ends the run."""
    restart_frozen_after_s: float | None = 600.0
    """Kill it and start it again when its main loop has stood still for so long. None: never, only say so; for robot
    hosts, since a killed one cannot tell its robots to hold."""
    ends_run: bool = False
    """Whether the run is complete when it ends without an error."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SupervisorConfig:
    """What one run consists of."""

    run: Path
    groups: tuple[tuple[ProcessSpec, ...], ...]
    """Started in this order and stopped in the opposite one: coordinator, then learner, then robot hosts."""
    embedded_bus: bool = True
    """Whether to start the embedded NATS server; without it the processes reach one elsewhere."""
    nats_port: int | None = None
    """Of the embedded server; None: a free one."""

    def __post_init__(self) -> None:
        if self.nats_port is not None and not self.embedded_bus:
            raise ConfigError(f"nats_port is {self.nats_port}, but the run's bus is elsewhere: leave it out")
        names = [spec.name for group in self.groups for spec in group]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"processes are {names}; a run needs at least one, each with its own name")


@dataclass(kw_only=True)
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    """In a row: the backoff grows with them."""
    ends: int = 0
    """All ends with an error."""
    start_at_s: float = 0.0
    finished: bool = False
    log_begins: int = 0
    """Where the log of its present start begins."""
    pulse: Pulse | None = None
    watch: FrozenWatch = field(default_factory=FrozenWatch)


class Supervisor:
    """Supervises one run. Create it and call `run` in the main thread."""

    def __init__(self, config: SupervisorConfig, *, on_event: Callable[[str], None] = _logger.info) -> None:
        """
        Args:
            on_event: told in words what was started, restarted and stopped.
        Raises:
            ServiceError: if another supervisor runs this run.
            PortInUse: if the port for NATS is taken.
        """
        self._config = config
        self._on_event = on_event
        # A plain flag: a signal handler that sets an Event can deadlock with the thread that waits for it.
        self._stopping = False
        durable.ensure_directory(config.run)
        self._lock = _lock(config.run)
        self._nats: NatsServer | None = None
        try:
            if config.embedded_bus:
                log = config.run / "logs" / "nats.log"
                self._nats = NatsServer(config.run / "nats", port=config.nats_port, log=log)
        except BaseException:
            os.close(self._lock)
            raise
        self._bus = None if self._nats is None else KeptServer(self._nats, on_event)
        self._groups = [[_Child(spec=spec) for spec in group] for group in config.groups]

    def stop(self) -> None:
        """Ask `run` to stop everything and return; may be called from anywhere."""
        self._stopping = True

    def run(self) -> None:
        """Start everything and wait until the run is complete, is stopped (SIGINT, SIGTERM), or fails.

        Raises:
            ServiceError: if the bus does not start, or a process that may not fail did; names its log.
        """
        previous: dict[int, Any] = {
            number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            if self._nats is not None:
                self._nats.start()
            while not self._stopping and not self._step():
                time.sleep(_POLL_S)
        finally:
            self._shut_down()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _step(self) -> bool:
        """Start and restart what is due. Returns whether the run is complete."""
        if self._bus is not None and self._bus.step():
            self._write_pids()
        for child in self._children():
            if child.process is None:
                if not child.finished and time.monotonic() >= child.start_at_s:
                    self._start(child)
            elif (status := child.process.poll()) is None:
                self._watch(child, child.process.pid)
            elif self._ended(child, status):
                return True
        return all(child.finished for child in self._children())

    def _start(self, child: _Child) -> None:
        spec = child.spec
        log, pulse = self._log(spec), Pulse()
        child.log_begins = log.stat().st_size if log.exists() else 0
        child.process = spawn(
            spec.command, log=log, environment={**spec.environment, **pulse.environment}, pass_fds=(pulse.write_end,)
        )
        pulse.started()
        child.pulse, child.watch = pulse, FrozenWatch()
        child.started_s = time.monotonic()
        self._on_event(f"started {spec.name} (pid {child.process.pid})")
        self._write_pids()

    def _watch(self, child: _Child, pid: int) -> None:
        """Say when a process stands still and when it goes on; kill what has stood still for too long."""
        if child.pulse is None:
            return
        spec, silent_s = child.spec, child.pulse.silent_s()
        if (event := child.watch.look(pid, silent_s, reported=child.pulse.reported)) is not None:
            self._on_event(f"{spec.name} {event}")
        limit_s = spec.restart_frozen_after_s
        if limit_s is not None and child.watch.frozen and silent_s > limit_s:
            self._on_event(f"{spec.name} is killed: it has stood still for {silent_s:.0f} s, the most is {limit_s:g} s")
            child.watch = FrozenWatch()
            os.kill(pid, signal.SIGKILL)

    def _ended(self, child: _Child, status: int) -> bool:
        """Deal with an ended process. Returns whether the run is complete with it."""
        spec, child.process = child.spec, None
        if child.pulse is not None:
            child.pulse.close()
            child.pulse = None
        self._write_pids()
        if status == 0:
            child.finished = True
            self._on_event(f"{spec.name} is done")
            return spec.ends_run
        if status in (WRONG_USAGE, MISCONFIGURED):
            raise ProcessFailed(f"{spec.name} cannot start: {self._reason(child)} (more in {self._log(spec)})")
        if spec.restart == "temporary" and status > 0 and status != TRY_AGAIN:
            raise ProcessFailed(
                f"{spec.name} ended with status {status}; the end of {self._log(spec)}:\n{self._tail(child, 2000)}"
            )
        if time.monotonic() - child.started_s > _STABLE_S:
            child.failures = 0
        backoff_s = min(_FIRST_BACKOFF_S * 2**child.failures, _MAX_BACKOFF_S)
        child.failures += 1
        child.ends += 1
        child.start_at_s = time.monotonic() + backoff_s
        event = f"{spec.name} ended with status {status}; starting it again in {backoff_s:g} s"
        # Of all failures, not of those in a row: one that works for a minute each time must say why it ends, too.
        if child.ends > 1:
            event += (
                f"; failure {child.ends}. It is tried again, {_MAX_BACKOFF_S:g} s apart at most, until it works or you "
                f"stop the run. The end of {self._log(spec)}:\n{self._tail(child, 600)}"
            )
        self._on_event(event)
        return False

    def _shut_down(self) -> None:
        """Stop groups in the opposite order, so that hosts can still commit what they spool."""
        for group in reversed(self._groups):
            running = [child.process for child in group if child.process is not None]
            stop_all(running, patience_s=_PATIENCE_S)
            for child in group:
                child.process = None
                if child.pulse is not None:
                    child.pulse.close()
                    child.pulse = None
        if self._nats is not None:
            self._nats.close()
        self._write_pids()
        self._on_event("everything is stopped")
        os.close(self._lock)

    def _children(self) -> list[_Child]:
        return [child for group in self._groups for child in group]

    def _log(self, spec: ProcessSpec) -> Path:
        return self._config.run / "logs" / f"{spec.name}.log"

    def _reason(self, child: _Child) -> str:
        """What a verb of ours said last, as `lwd robot: ...`; else the end of what it has written."""
        text = self._tail(child, 4000)
        said = list(re.finditer(r"^lwd [a-z][a-z -]*(?::| needs) ", text, re.MULTILINE))
        return text[said[-1].start() :] if said else text

    def _tail(self, child: _Child, size: int) -> str:
        """The end of what its last start has written, at most."""
        with self._log(child.spec).open("rb") as file:
            file.seek(max(child.log_begins, file.seek(0, os.SEEK_END) - size))
            text = file.read(size).decode(errors="replace").strip()
        return "".join(mark if mark.isprintable() or mark == "\n" else " " for mark in text) or "(it wrote nothing)"

    def _write_pids(self) -> None:
        pids = {child.spec.name: child.process.pid for child in self._children() if child.process is not None}
        if self._nats is not None and self._nats.process is not None and self._nats.running:
            pids["nats"] = self._nats.process.pid
        durable.replace(self._config.run / "processes.json", json.dumps(pids).encode())


def _lock(run: Path) -> int:
    lock = os.open(run / ".supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ServiceError(f"{run} is already running under another supervisor: stop that one first") from error
    return lock
