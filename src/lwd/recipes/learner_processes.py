"""`lwd learner --processes N`: starts the processes that train as one, and starts all again when one dies.

No process outlives this one, and none goes on without the others. Each start of the group meets in a place of its own,
so nothing that an earlier one has left is read.
"""

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lwd.errors import TRY_AGAIN, ConfigError, ProcessFailed, ServiceError
from lwd.fleet.backoff import Backoff
from lwd.fleet.liveness import handed_on
from lwd.fleet.process import spawn, stop_all
from lwd.learner.rendezvous import Member, exposure, private_address, private_directory

_POLL_S = 0.05
_GRACE_S = 5.0
"""After the first failure: in which the others find out, and say what they saw."""
_STABLE_S = 3600.0
"""A start that ran so long has the restarts before it forgiven."""
_STOPPED = 130

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LearnerProcesses:
    """Which processes train as one."""

    processes: int
    """On this machine."""
    hosts: int = 1
    host_rank: int = 0
    rendezvous: str | None = None
    """ADDRESS:PORT of the machine with host_rank 0; only with several hosts."""
    max_restarts: int = 3
    """Restarts of the whole group in a row, none of which ran for an hour."""

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("hosts", 1), ("max_restarts", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.host_rank < self.hosts:
            raise ConfigError(
                f"host_rank is {self.host_rank}; with {self.hosts} hosts it lies in 0 to {self.hosts - 1}"
            )
        if self.hosts > 1 and self.rendezvous is None:
            raise ConfigError(f"hosts is {self.hosts}, but rendezvous is missing: give ADDRESS:PORT of the first one")
        if self.hosts == 1 and self.rendezvous is not None:
            raise ConfigError("rendezvous is given for one host, which needs none: leave it out, or give --hosts")
        if self.rendezvous is not None:
            private_address(self.rendezvous)

    @property
    def size(self) -> int:
        return self.processes * self.hosts


def run_processes(
    group: LearnerProcesses,
    command: Sequence[str],
    *,
    stop: Callable[[], bool],
    on_event: Callable[[str], None] = _logger.warning,
) -> None:
    """Run the group to its end.

    Args:
        command: of every process; its place in the group is in its environment.
        stop: asks all to stop between two updates, with a checkpoint.
    Raises:
        KeyboardInterrupt: if it was stopped.
        ProcessFailed: if a process ended with an error of its own.
        ServiceError: if processes were lost more often than `max_restarts`.
    """
    if group.rendezvous is not None:
        on_event(exposure(*private_address(group.rendezvous)))
    backoff = Backoff(first_s=1.0, most_s=30.0)
    while True:
        begun_s = time.monotonic()
        statuses = _run_once(group, command, stop)
        ended = {rank: status for rank, status in statuses.items() if status not in (0, _STOPPED)}
        if stop() or (not ended and _STOPPED in statuses.values()):
            raise KeyboardInterrupt
        if not ended:
            return
        told = ", ".join(f"process {rank} {_words(status)}" for rank, status in ended.items())
        if any(status > 0 and status != TRY_AGAIN for status in ended.values()):
            raise ProcessFailed(f"the learner's processes ended ({told}): see the first error of their output above")
        if time.monotonic() - begun_s > _STABLE_S:
            backoff.succeeded()
        if backoff.failures >= group.max_restarts:
            raise ServiceError(
                f"the learner's processes ended ({told}) after {backoff.failures} restarts: see their output "
                "above; the same command continues from the last checkpoint"
            )
        rest_s = backoff.failed()
        on_event(
            f"the learner's processes ended ({told}): all start again from the last checkpoint in {rest_s:.1f} s "
            f"(restart {backoff.failures} of {group.max_restarts})"
        )
        _rest(rest_s, stop)


def _run_once(group: LearnerProcesses, command: Sequence[str], stop: Callable[[], bool]) -> dict[int, int]:
    """Start all and wait until all have ended, the others of a failed one, too. Returns exit statuses by rank."""
    children: dict[int, subprocess.Popen[bytes]] = {}
    with _members(group) as members:
        try:
            for member in members:
                # Of all the processes rank 0 tells the supervisor that the group trains: each update needs them all.
                variables, descriptors = handed_on() if member.rank == 0 else ({}, ())
                children[member.rank] = spawn(
                    command,
                    log=None,
                    environment=member.variables | variables,
                    # Not SIGTERM: what would still save while the next start of the run begins is in its way.
                    death_signal=signal.SIGKILL,
                    pass_fds=descriptors,
                )
            return _wait(children, stop)
        finally:
            stop_all(list(children.values()), patience_s=_GRACE_S)


def _wait(children: dict[int, subprocess.Popen[bytes]], stop: Callable[[], bool]) -> dict[int, int]:
    told = False
    failed_s: float | None = None
    while any(child.poll() is None for child in children.values()):
        if stop() and not told:
            told = True
            for child in children.values():
                child.terminate()
        if failed_s is None and any(child.poll() not in (None, 0, _STOPPED) for child in children.values()):
            failed_s = time.monotonic()
        if failed_s is not None and time.monotonic() - failed_s > _GRACE_S:
            # They wait for the one that is gone, and would until the group's time limit.
            stop_all(list(children.values()), patience_s=_GRACE_S)
        time.sleep(_POLL_S)
    return {rank: child.wait() for rank, child in children.items()}


@contextmanager
def _members(group: LearnerProcesses) -> Iterator[list[Member]]:
    """The places of this machine's processes in one start of the group."""
    first = group.host_rank * group.processes
    places = [{"rank": first + local, "size": group.size, "local_rank": local} for local in range(group.processes)]
    if group.rendezvous is not None:
        address, port = private_address(group.rendezvous)
        yield [Member.model_validate(place | {"address": address, "port": port}) for place in places]
    else:
        with private_directory() as directory:
            yield [Member.model_validate(place | {"directory": directory}) for place in places]


def _rest(seconds: float, stop: Callable[[], bool]) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and not stop():
        time.sleep(_POLL_S)


def _words(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
