"""A whole data plane in real processes: S3 server, bus, coordinator, writers; whatever dies is started again."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nats.errors import Error as NatsError

from lwd.data.store import ObjectStore, open_store
from lwd.errors import ServiceError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.bus_connection import connect
from lwd.fleet.jetstream import STREAM
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.process import spawn, stop_all

from ..seaweedfs import BUCKET, SeaweedServer
from .clock import Clock
from .journal import journal_path, read_journal
from .writers import WriterConfig

Kind = Literal["coordinator", "bus", "store", "writer"]
_ROOT = Path(__file__).parents[2]
_PREFIX = "fleet"
_RESTART_AFTER_S = 0.5
"""As `lwd up` does it the first time (it waits longer for a process that dies again and again)."""


def command(role: str, **settings: object) -> list[str]:
    """Return the command of one of our processes."""
    return [sys.executable, "-m", "tests.faults.processes", role, json.dumps(settings)]


def environment(**more: str) -> dict[str, str]:
    """Return what our processes need to find the code of this checkout."""
    paths = [str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path), **more}


@dataclass(kw_only=True)
class Member:
    """One process, started again whenever it ends with an error."""

    name: str
    kind: Kind
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    finished: bool = False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tend(self) -> None:
        """Start the process if it is due."""
        if self.finished or self.running:
            return
        if self.process is not None and self.process.returncode == 0:
            self.finished = True
        elif self.process is not None:
            self.process, self.start_at_s = None, time.monotonic() + _RESTART_AFTER_S
        elif time.monotonic() >= self.start_at_s:
            self.process = self.start()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class DataPlane:
    """The processes of one fleet. `tend` must be called often, from the thread that made it."""

    def __init__(
        self,
        run: Path,
        *,
        writers: int,
        robots: int,
        episodes: int,
        period_s: float,
        directory: Path | None = None,
        spools: Path | None = None,
        coordinators: int = 1,
        clocks: Mapping[str, Clock] | None = None,
    ) -> None:
        """
        Args:
            robots: per writer.
            episodes: per robot.
            period_s: between two episodes of a writer.
            directory: the store, instead of an S3 server.
            spools: where the writers keep spools and metrics, instead of in `run`.
            coordinators: more than one is a mistake of an operator, and must do no harm.
            clocks: wrong clocks of processes, by their name.
        """
        self.run = run
        self.spools = (spools or run) / "spool"
        self._directory = directory
        self._store_server = None if directory is not None else SeaweedServer(run / "seaweedfs")
        self._bus_server = NatsServer(run / "nats", log=run / "logs" / "bus.log")
        self._clocks = clocks or {}
        url = f"s3://{BUCKET}/{_PREFIX}" if directory is None else str(directory)
        places = {"store_url": url, "nats_url": self._bus_server.url}
        self.writers = [f"writer-{number}" for number in range(writers)]
        self.members = [Member(name="bus", kind="bus", start=self._start_bus)]
        if self._store_server is not None:
            self.members.append(Member(name="store", kind="store", start=self._start_store))
        for number in range(coordinators):
            name = f"coordinator-{number}" if number else "coordinator"
            self._add(name, "coordinator", {"run": str(run), **places})
        for name in self.writers:
            config = WriterConfig(
                **places,
                run=str(spools or run),
                journal=str(journal_path(run, name)),
                name=name,
                robots=robots,
                episodes=episodes,
                period_s=period_s,
            )
            self._add(name, "writer", asdict(config))

    def __enter__(self) -> "DataPlane":
        try:
            for member in self.members:
                if member.kind in ("bus", "store"):
                    member.tend()
            if self._store_server is not None:
                self._store_server.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything; the writers first, so that they leave in order."""
        for kind in ("writer", "coordinator", "bus"):
            stop_all([item.process for item in self.members if item.kind == kind and item.process is not None])
        # Stopping in order takes the store 15 s, and nobody needs its data any more.
        if self._store_server is not None and self._store_server.process is not None:
            self._store_server.kill()

    def member(self, name: str) -> Member:
        """Return a process by its name."""
        return next(member for member in self.members if member.name == name)

    def object_store(self) -> ObjectStore:
        """Open the fleet's store."""
        if self._store_server is None:
            assert self._directory is not None
            return open_store(self._directory)
        return open_store(self._store_server.store_config(_PREFIX))

    def tend(self) -> None:
        """Start what is not running; nobody does anything else for the fleet."""
        for member in self.members:
            member.tend()

    @property
    def finished(self) -> bool:
        """Whether every writer has seen all of its episodes committed."""
        return all(member.finished for member in self.members if member.kind == "writer")

    def killable(self, kind: Kind) -> list[Member]:
        """Return what of a kind runs, the store only if it serves."""
        found = [member for member in self.members if member.kind == kind and member.running]
        if kind == "store" and not (self._store_server is not None and self._store_server.serving):
            return []
        return found

    def journal(self) -> dict[str, dict[str, str]]:
        """Return the journals by writer: SHA-256 by key."""
        return {name: read_journal(journal_path(self.run, name)) for name in self.writers}

    def delete_stream(self) -> bool:
        """Delete the whole JetStream stream; False if the bus is down."""

        async def delete() -> None:
            client = await connect(BusConfig(urls=(self._bus_server.url,)), "test", 2.0)
            try:
                await client.jetstream(timeout=2).delete_stream(STREAM)
            finally:
                await client.close()

        try:
            asyncio.run(delete())
        except (NatsError, ServiceError, OSError, TimeoutError):
            return False
        return True

    def logs(self) -> str:
        """Return the end of every log."""
        files = sorted([*(self.run / "logs").glob("*.log"), *self.run.glob("seaweedfs/weed.log")])
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)

    def log_of(self, name: str) -> str:
        """Return what a process of ours has logged."""
        path = self.run / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _start_store(self) -> subprocess.Popen[bytes]:
        assert self._store_server is not None
        self._store_server.start(wait=False)
        assert self._store_server.process is not None
        return self._store_server.process

    def _start_bus(self) -> subprocess.Popen[bytes]:
        self._bus_server.start()
        assert self._bus_server.process is not None
        return self._bus_server.process

    def _add(self, name: str, kind: Kind, settings: dict[str, object]) -> None:
        if name in self._clocks:
            settings["clock"] = self._clocks[name]
        variables = environment(**(self._store_server.environment if self._store_server is not None else {}))
        log = self.run / "logs" / f"{name}.log"

        def start() -> subprocess.Popen[bytes]:
            return spawn(command(kind, **settings), log=log, environment=variables)

        self.members.append(Member(name=name, kind=kind, start=start))
