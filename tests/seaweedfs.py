"""A real S3 server for tests and benchmarks: SeaweedFS on loopback, data in a directory of the caller's."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from lwd.data.store import StoreConfig, open_store
from lwd.errors import StoreError
from lwd.fleet.process import spawn, stop

BUCKET = "lwd"
ACCESS_KEY, SECRET_KEY = "lwd-test", "lwd-test-secret"
_READY_WITHIN_S = 120.0
_ELECTION_S = 1
"""The only master of a cluster elects itself after this silence; with the default of 10 s a start takes 9 s,
and 12 to 20 s after kill -9, instead of 3."""


class SeaweedServer:
    """One `weed server -s3` process; it can be killed and started again on the same ports and data."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1") -> None:
        """
        Args:
            host: the address to listen on.
        """
        self._host = host
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._ports = _free_ports(8)
        self._identities = self._directory / "identities.json"
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        self._identities.write_text(
            json.dumps({"identities": [{"name": "lwd", "credentials": credentials, "actions": actions}]})
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs beside the store's URL to reach the server."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
        }

    def store_config(self, prefix: str) -> StoreConfig:
        """Return a store below a prefix, for use in this process without changing its environment."""
        options = {
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "endpoint": self.endpoint,
            "allow_http": "true",
            "region": "us-east-1",
        }
        return StoreConfig(url=f"s3://{BUCKET}/{prefix}", options=options)

    def start(self, *, wait: bool = True) -> None:
        """Start the server; with `wait`, return when the bucket can be written."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        command = [
            str(Path(sys.executable).parent / "weed"),
            "-logtostderr",
            "server",
            f"-dir={self._directory}",
            f"-ip={self._host}",
            f"-ip.bind={self._host}",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.telemetry=false",
            f"-master.electionTimeout={_ELECTION_S}s",
            "-master.volumeSizeLimitMB=256",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=40",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={self._identities}",
        ]
        self.process = spawn(command, log=self._directory / "weed.log")
        if wait:
            self.wait_until_ready()

    @property
    def serving(self) -> bool:
        """Whether the S3 port answers that the server is healthy."""
        try:
            with socket.create_connection((self._host, self._ports[0]), timeout=1.0) as connection:
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return connection.recv(64).split(b" ")[1:2] == [b"200"]
        except OSError:
            return False

    def wait_until_ready(self) -> None:
        """Wait until the server takes an object; creates the bucket at the first start."""
        deadline_s = time.monotonic() + _READY_WITHIN_S
        config = self.store_config("ready")
        store = open_store(config)
        while True:
            try:
                self._make_bucket()
                store.create(f"probe-{time.time_ns()}", b"x")
                return
            except (StoreError, OSError) as error:
                tail = (self._directory / "weed.log").read_text(errors="replace")[-2000:]
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    raise AssertionError(f"weed is not ready ({error}):\n{tail}") from error
                time.sleep(0.1)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            stop(self.process)

    def _make_bucket(self) -> None:
        """Buckets are directories of the filer; obstore cannot create one."""
        with socket.create_connection((self._host, self._ports[6]), timeout=2.0) as connection:
            request = (
                f"POST /buckets/{BUCKET}/ HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: 0\r\nConnection: close\r\n"
            )
            connection.sendall(f"{request}\r\n".encode())
            status = connection.recv(64).split(b" ")[1:2]
            if status not in ([b"201"], [b"409"]):  # made, or there already
                raise OSError(f"the filer did not make the bucket: {status}")


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, below the ephemeral range so that no client takes one while the server is down."""
    found: list[int] = []
    for port in range(21_000 + hash(time.time_ns()) % 8_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports below 32000")
