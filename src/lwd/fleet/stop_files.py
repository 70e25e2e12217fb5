"""Stops as files in RUN/stop: they stop the hosts of this machine while bus, store, learner and coordinator are down.

One file per stop, named by its id, and one per release; nothing is ever rewritten in place, so no writer needs a lock
that a frozen process could hold. A file counts as soon as it is there, also while it is empty, and so does a file with
any other name (`touch RUN/stop/button`): what cannot be read stops, too. Deleting a file releases nothing that a host
has seen.
"""

import contextlib
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from lwd.data import durable
from lwd.errors import StoreError
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_messages import (
    MAX_STOPS,
    STOP_ID_PATTERN,
    UNKNOWN,
    HostFile,
    StopOrder,
    StopRelease,
    StopReport,
    StopState,
)

_POLL_S = 0.05
_MAX_BYTES = 65_536
_RELEASED = ".released"
_STOP_ID = re.compile(STOP_ID_PATTERN)

_logger = logging.getLogger(__name__)


class StopFiles:
    """RUN/stop. Any process may write to it, several at once."""

    def __init__(self, run: Path) -> None:
        self.directory = run / "stop"
        self._known: dict[str, tuple[tuple[int, int], StopOrder | StopRelease]] = {}

    def read(self) -> StopState:
        """Return what the files say; what was read before and has not changed is not read again.

        Raises:
            OSError: if the directory cannot be read. A directory that is not there says nothing.
        """
        known: dict[str, tuple[tuple[int, int], StopOrder | StopRelease]] = {}
        try:
            entries = list(os.scandir(self.directory))
        except FileNotFoundError:
            entries = []
        for entry in entries:
            if durable.is_temporary(entry.name):
                continue
            try:
                if entry.is_dir():
                    continue
                stat = entry.stat()
            except FileNotFoundError:
                continue
            version = (stat.st_mtime_ns, stat.st_size)
            before = self._known.get(entry.name)
            content = before[1] if before is not None and before[0] == version else _read(Path(entry), stat)
            known[entry.name] = (version, content)
        self._known = known
        contents = [content for _, content in known.values()]
        state = StopState()
        # In parts: whoever fills the directory must not make a message that is too large to be one.
        for number in range(0, len(contents), MAX_STOPS):
            part = contents[number : number + MAX_STOPS]
            state = state.merged(
                StopState(
                    stops=tuple(each for each in part if isinstance(each, StopOrder)),
                    releases=tuple(each for each in part if isinstance(each, StopRelease)),
                )
            )
        return state

    def write(self, state: StopState) -> None:
        """Make files of what has none yet; durable on return.

        Raises:
            StoreError: if not all could be written; every stop that could be made a file at all counts already.
        """
        durable.ensure_directory(self.directory)
        present = {entry.name for entry in os.scandir(self.directory)}
        released = {release.stop_id for release in state.releases}
        new = [stop for stop in state.stops if stop.stop_id not in present | released]
        for stop in new:
            # At once and without content, which may wait for a slow or full disk: from here on it counts.
            with durable.explained(self.directory / stop.stop_id):
                os.close(os.open(self.directory / stop.stop_id, os.O_WRONLY | os.O_CREAT, 0o644))
        for stop in new:
            durable.replace(self.directory / stop.stop_id, stop.model_dump_json().encode())
        for release in state.releases:
            if release.stop_id + _RELEASED not in present:
                durable.replace(self.directory / (release.stop_id + _RELEASED), release.model_dump_json().encode())
        self._tidy(state)

    def host_file(self, host_id: str) -> Path:
        """Where a host of this machine tells whether it holds."""
        return self.directory / "hosts" / f"{host_id}.json"

    def hosts(self) -> list[StopReport]:
        """Return what the hosts of this machine tell that are alive."""
        reports = []
        for path in sorted((self.directory / "hosts").glob("*.json")):
            with contextlib.suppress(OSError, ValidationError):
                host = HostFile.model_validate_json(path.read_bytes())
                os.kill(host.pid, 0)
                reports.append(host.report)
        return reports

    def _tidy(self, state: StopState) -> None:
        """Delete released stops that came without an id, and pairs that are too old to be remembered."""
        released = {release.stop_id for release in state.releases}
        names = {entry.name for entry in os.scandir(self.directory) if entry.is_file()}
        for name in names:
            _, content = self._known.get(name, (None, None))
            is_nameless = not _STOP_ID.match(name) and isinstance(content, StopOrder)
            if is_nameless and content is not None and content.stop_id in released:
                (self.directory / name).unlink(missing_ok=True)
        for name in names:
            stop_id = name.removesuffix(_RELEASED)
            if name.endswith(_RELEASED) and stop_id not in released and len(state.releases) >= MAX_STOPS:
                # The stop first: alone it would count.
                (self.directory / stop_id).unlink(missing_ok=True)
                (self.directory / name).unlink(missing_ok=True)


def _read(path: Path, stat: os.stat_result) -> StopOrder | StopRelease:
    name = path.name
    released_id = name.removesuffix(_RELEASED)
    kind: type[StopOrder] | type[StopRelease] = StopOrder
    if name.endswith(_RELEASED) and _STOP_ID.match(released_id):
        kind = StopRelease
    try:
        # Never a fifo, which nobody may write to.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            message = kind.model_validate_json(file.read(_MAX_BYTES))
        if message.stop_id == released_id:
            return message
    except (OSError, ValidationError):
        pass
    if kind is StopRelease:
        # Of a release that cannot be read nobody knows who wrote it: it releases nothing.
        return StopOrder(stop_id=released_id, by=UNKNOWN, reason="a release that cannot be read", at_s=stat.st_mtime)
    if _STOP_ID.match(name):
        return StopOrder(stop_id=name, by=UNKNOWN, at_s=stat.st_mtime)
    # Of the same name another time: another stop.
    stop_id = hashlib.sha256(f"{name} {stat.st_mtime_ns}".encode(errors="replace")).hexdigest()[:32]
    shown = "".join(each for each in name if each.isprintable())[:100]
    return StopOrder(stop_id=stop_id, by=UNKNOWN, reason=f"file {shown}", at_s=stat.st_mtime)


class StopFileThread:
    """Keeps a latch and RUN/stop alike. A thread of its own: a disk that hangs must delay nothing else."""

    def __init__(self, files: StopFiles, latch: StopLatch) -> None:
        """Reads the files first: on return, what stops this machine is in the latch."""
        self.report: Callable[[], StopReport] | None = None
        """Asked for what this host tells of itself in RUN/stop/hosts; None: nothing."""
        self._told: tuple[object, ...] = ()
        self._files, self._latch = files, latch
        self._closing = threading.Event()
        self.complaint = ""
        """What does not work; empty while all is well."""
        self._turn()
        self._thread = threading.Thread(target=self._run, name="stop files", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, which a hanging disk may outlive."""
        self._closing.set()
        self._thread.join(1.0)
        if self.report is not None:
            with contextlib.suppress(OSError):
                self._files.host_file(self.report().host_id).unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._closing.wait(_POLL_S):
            try:
                self._turn()
            except Exception:  # of a thread that ended nobody would know
                _logger.exception("stops in %s are not looked at now", self._files.directory)
                self._closing.wait(1.0)

    def _turn(self) -> None:
        try:
            found = self._files.read()
            self._latch.merge(found)
            state = self._latch.state
            filed = {stop.stop_id for stop in found.stops}, {release.stop_id for release in found.releases}
            if any(stop.stop_id not in filed[0] for stop in state.active) or any(
                release.stop_id not in filed[1] for release in state.releases
            ):
                self._files.write(state)
            if self.report is not None:
                report = self.report()
                if (told := (report.stops, report.robots)) != self._told:
                    content = HostFile(pid=os.getpid(), report=report)
                    durable.replace(self._files.host_file(report.host_id), content.model_dump_json().encode())
                    self._told = told
            self.complaint = ""
        except (OSError, StoreError) as error:
            if str(error) != self.complaint:
                self.complaint = str(error)
                _logger.error("stops cannot be kept in %s: %s", self._files.directory, error)
