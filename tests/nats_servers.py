"""Real nats-servers as operators run them elsewhere: with TLS, JWT credentials, or as a cluster, on loopback."""

import base64
import contextlib
import hashlib
import json
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import nkeys
import trustme
from nacl.signing import SigningKey

from lwd.fleet.nats_server import nats_binary
from lwd.fleet.process import spawn, stop

HOST = "127.0.0.1"
_PREFIX = {"operator": nkeys.PREFIX_BYTE_OPERATOR, "account": nkeys.PREFIX_BYTE_ACCOUNT, "user": nkeys.PREFIX_BYTE_USER}


class ExternalServer:
    """A nats-server with a configuration of the test's; it can be killed and started again."""

    def __init__(self, directory: Path, config: str = "", *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._log = directory / "nats.log"
        self._config = directory / "nats.conf"
        directory.mkdir(parents=True, exist_ok=True)
        jetstream = f'jetstream {{ store_dir: "{directory}", sync_interval: always }}'
        self._config.write_text(f'listen: "{HOST}:{self.port}"\n{jetstream}\n{config}\n')
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = spawn([nats_binary(), "--config", str(self._config)], log=self._log)
        deadline_s = time.monotonic() + 60
        while not self._greets():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            stop(self.process)

    def __enter__(self) -> "ExternalServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greets(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return ports that differ: asked for one by one, the same may come twice."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(frozen=True)
class Certificates:
    """An authority of the test's own, with a server's and a client's certificate."""

    ca: Path
    server: Path
    client: Path
    """Certificate and key in one file."""

    @classmethod
    def make(cls, directory: Path, name: str = HOST) -> "Certificates":
        directory.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        made = cls(directory / "ca.pem", directory / "server.pem", directory / "client.pem")
        authority.cert_pem.write_to_path(made.ca)
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(made.server)
        authority.issue_cert("robot@fleet").private_key_and_cert_chain_pem.write_to_path(made.client)
        return made

    def config(self, *, verify: bool = False) -> str:
        """The server's `tls` block."""
        mutual = f'ca_file: "{self.ca}", verify: true' if verify else ""
        return f'tls {{ cert_file: "{self.server}", key_file: "{self.server}", {mutual} }}'


class Identity:
    """An nkey of an operator, an account or a user, that signs JWTs as `nsc` does."""

    def __init__(self, kind: str) -> None:
        self.seed = nkeys.encode_seed(bytes(SigningKey.generate()), _PREFIX[kind])
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()
        self._kind = kind

    def jwt(self, subject: "Identity", name: str, claims: dict[str, object], *, expires_s: int | None = None) -> str:
        """Return the JWT in which this identity vouches for another."""
        body: dict[str, object] = {
            "iat": int(time.time()),
            "iss": self.public,
            "name": name,
            "sub": subject.public,
            "nats": {"type": subject._kind, "version": 2, **claims},
        }
        if expires_s is not None:
            body["exp"] = int(time.time()) + expires_s
        digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        signed = f"{_encode({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encode(body)}"
        return f"{signed}.{_text(self._pair.sign(signed.encode()))}"


class Realm:
    """Operator, account and users of a fleet; a system account beside them, as servers want one."""

    def __init__(self) -> None:
        self._operator, self.account, self._system = Identity("operator"), Identity("account"), Identity("account")
        limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
        disk = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
        operator = self._operator.jwt(self._operator, "operator", {"system_account": self._system.public})
        account = self._operator.jwt(self.account, "fleet", {"limits": {**limits, **disk}})
        system = self._operator.jwt(self._system, "SYS", {"limits": limits})
        self.config = (
            f"operator: {operator}\nsystem_account: {self._system.public}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {self.account.public}: {account}, {self._system.public}: {system} }}"
        )

    def credentials(self, path: Path, *, account: Identity | None = None, **claims: object) -> Path:
        """Write a user's .creds file; an account that the servers do not know makes a stranger's."""
        user = Identity("user")
        jwt = (account or self.account).jwt(user, path.stem, {"subs": -1, "data": -1, "payload": -1, **claims})
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _encode(content: dict[str, object]) -> str:
    return _text(json.dumps(content).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
