"""The server side of a fleet on another host: S3 server, bus and coordinator in the namespace of this process."""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwd.data.store import open_store
from lwd.fleet.nats_server import nats_binary
from lwd.fleet.process import spawn, stop_all

from ..seaweedfs import BUCKET, SeaweedServer
from .audit import assert_exactly_once
from .journal import journal_path, read_journal
from .servers import command, environment

_NATS_PORT = 4222
_PREFIX = "fleet"


def run_server_host(settings: Mapping[str, Any]) -> None:
    """Serve until SIGTERM, then check what was committed and write it to RUN/audit.json.

    Args:
        settings: `run`; `address` to listen on; `writer` and `episodes` (of all its robots) for the check.
    """
    stopped: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    run, address = Path(settings["run"]), settings["address"]
    store = SeaweedServer(run / "seaweedfs", host=address)
    try:
        store.start()
        bus = spawn(
            [
                nats_binary(),
                "--addr",
                address,
                "--port",
                str(_NATS_PORT),
                "--jetstream",
                "--store_dir",
                str(run / "nats"),
            ],
            log=run / "logs" / "bus.log",
        )
        places = {"store_url": f"s3://{BUCKET}/{_PREFIX}", "nats_url": f"nats://{address}:{_NATS_PORT}"}
        coordinator = spawn(
            command("coordinator", run=str(run), **places),
            log=run / "logs" / "coordinator.log",
            environment=environment(**store.environment),
        )
        _write(run / "places.json", places | {"environment": store.environment})
        try:
            while not stopped:
                assert bus.poll() is None
                assert coordinator.poll() is None
                time.sleep(0.05)
            objects = open_store(store.store_config(_PREFIX))
            journal = {settings["writer"]: read_journal(journal_path(run, settings["writer"]))}
            committed = assert_exactly_once(objects, journal, run / "spool", episodes=settings["episodes"])
            _write(run / "audit.json", [[item.entry.key, item.committed_at_s] for item in committed])
        finally:
            stop_all([coordinator, bus])
    finally:
        if store.process is not None:
            store.kill()


def _write(path: Path, value: object) -> None:
    """Whole or not at all: others wait for it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
