"""How a process reaches the message bus: the embedded server's URL, or servers elsewhere with TLS and credentials."""

import asyncio
import base64
import json
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

import nkeys  # type: ignore[import-untyped]
from nats.errors import Error as NatsError

from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import BusRefused, ConfigError
from lwd.fleet import loopback

_SCHEMES = ("nats", "tls")
_JWT_LINE, _SEED_LINE = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"


@dataclass(frozen=True, kw_only=True)
class BusConfig:
    """Where the NATS servers are and how they know us. Secrets stay in files; only their paths are kept here."""

    urls: tuple[str, ...] = field(repr=False)
    """`nats://HOST:PORT` or `tls://HOST:PORT`, several for a cluster; `?nkey=FILE` names the seed that we sign with."""
    credentials: Path | None = None
    """A `.creds` file: the user's JWT and its nkey seed."""
    ca: Path | None = None
    """PEM certificates that servers are checked against; None: the system's."""
    certificate: Path | None = None
    """PEM certificate that shows the servers who we are (mutual TLS); needs `key`."""
    key: Path | None = None
    replicas: int | None = None
    """Servers of the cluster that keep a copy of the stream and the KV; None: one, or as it is if they exist."""

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("nats_url is empty; give nats://HOST:PORT or tls://HOST:PORT")
        for url in self.urls:
            parts = _split(url)
            if parts.scheme not in _SCHEMES or not parts.hostname or parts.path.strip("/"):
                raise ConfigError(f"nats_url {_without_secret(url)!r} is no nats://HOST:PORT or tls://HOST:PORT")
            if parts.query and set(parse_qs(parts.query)) != {"nkey"}:
                raise ConfigError(f"nats_url {_without_secret(url)!r} has another query than ?nkey=FILE")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("nats_cert and nats_key belong together: give both, or neither")
        if self.replicas is not None and self.replicas not in (1, 3, 5):
            raise ConfigError(f"nats_replicas is {self.replicas}; a cluster keeps 1, 3 or 5 copies")

    def __str__(self) -> str:
        given = (self.credentials, self.ca, self.certificate, self.key)
        files = ", ".join(str(path) for path in given if path is not None)
        return f"{self.hosts} ({files or 'no files'}, replicas {self.replicas})"

    @property
    def hosts(self) -> str:
        """The addresses without secrets, for messages."""
        return ", ".join(_split(url).netloc.rpartition("@")[2] for url in self.urls)

    @property
    def servers(self) -> tuple[str, ...]:
        """The URLs as nats-py takes them; a token or password is still in them."""
        return tuple(url.partition("?")[0] for url in self.urls)

    @property
    def nkey(self) -> Path | None:
        """The file of the nkey seed with which we sign what the server asks us to sign."""
        found = [path for url in self.urls for path in parse_qs(_split(url).query).get("nkey", ())]
        return Path(found[0]) if found else None

    @property
    def user(self) -> str:
        """Our name with the server, as far as our files or the URL tell it; else empty."""
        if self.credentials is not None:
            return _jwt_name(self.credentials)
        names = [parts.username for parts in map(_split, self.urls) if parts.username and parts.password]
        return names[0] if names else ""

    @property
    def holds_secret(self) -> bool:
        """Whether a URL holds a token or a password."""
        return any("@" in _split(url).netloc for url in self.urls)

    @property
    def wants_tls(self) -> bool:
        return self.ca is not None or self.certificate is not None or any(_split(u).scheme == "tls" for u in self.urls)

    def client_options(self) -> dict[str, Any]:
        """Return what nats-py needs to know beside the URLs; reads the files.

        Raises:
            ConfigError: if a file is missing or is not what it should be.
        """
        options: dict[str, Any] = {}
        if self.credentials is not None:
            _require_credentials(self.credentials)
            options["user_credentials"] = str(self.credentials)
        elif self.nkey is not None:
            _require_seed(self.nkey)
            options["nkeys_seed"] = str(self.nkey)
        if self.wants_tls:
            options["tls"] = self._tls_context()
        return options

    def require_own_server(self, writer: asyncio.StreamWriter | None) -> None:
        """Check that the embedded server's port was not taken by somebody else while the server was down.

        Only the owner of the seed can run the server that knows its public key. Where the system does not tell whose
        process a loopback connection has reached (it is not Linux), this is not checked.

        Raises:
            NotOurServer: before anything is sent.
        """
        if self.nkey is None or writer is None:
            return
        (own, own_port, *_), (peer, peer_port, *_) = (
            writer.get_extra_info(name) or ("", 0) for name in ("sockname", "peername")
        )
        if not (own.startswith("127.") and peer.startswith("127.")):
            return
        try:
            uid, owner = loopback.peer_uid(own_port, peer_port), self.nkey.stat().st_uid
        except (LookupError, OSError) as error:
            raise NotOurServer(f"who listens on port {peer_port} cannot be told ({error})") from error
        if uid not in (None, owner):
            raise NotOurServer(f"port {peer_port} was taken by {loopback.holder(peer_port) or f'user {uid}'}")

    def _tls_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(
                f"nats_ca {self.ca} is no PEM file of certificates ({error.strerror or error})"
            ) from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                raise ConfigError(
                    f"nats_cert {self.certificate} and nats_key {self.key} are no PEM certificate with its key "
                    f"({error.strerror or error})"
                ) from error
        return context


class NotOurServer(NatsError):
    """Somebody else listens where the embedded server was."""


def url_with_nkey(host: str, port: int, seed: Path) -> str:
    """Return the URL of a server that asks for a signature by the nkey in a file; it holds no secret."""
    return f"nats://{host}:{port}?nkey={quote(str(seed))}"


def refusal(error: Exception, config: BusConfig) -> BusRefused | None:
    """Return what to tell the user if a server refused us, or we refuse it; None for other errors."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BusRefused(
            f"the certificate of the NATS server at {config.hosts} is not trusted ({error.verify_message}): "
            "give its authority with --nats-ca, and the name that the certificate is for in --nats-url"
        )
    if isinstance(error, ssl.SSLError):
        return BusRefused(
            f"no TLS with the NATS server at {config.hosts} ({error.reason or error}): "
            "does it want a certificate of ours (--nats-cert, --nats-key)?"
        )
    if isinstance(error, NotOurServer):
        return BusRefused(f"{error}: that is not this run's NATS server; end that process, and start `lwd up` again")
    text = str(error).lower()
    if "authorization" in text or "authentication" in text:
        what = "a token in --nats-url" if config.credentials is None else f"--nats-credentials {config.credentials}"
        wanted = f"{what} is not accepted" if config.credentials or config.holds_secret else "it wants credentials"
        return BusRefused(
            f"the NATS server at {config.hosts} refuses us ({wanted}): "
            "give a valid file with --nats-credentials, or ask who runs the server"
        )
    return None


def _require_credentials(path: Path) -> None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"nats_credentials {path} cannot be read ({error.strerror})") from error
    after = {
        name: lines[at + 1] for at, line in enumerate(lines[:-1]) for name in (_JWT_LINE, _SEED_LINE) if name in line
    }
    try:
        # Never in the message: what the file says.
        nkeys.from_seed(bytearray(after[_SEED_LINE].strip().encode())).wipe()
        _ = after[_JWT_LINE]
    except Exception as error:  # nkeys raises many kinds for what is no seed
        raise ConfigError(
            f"nats_credentials {path} is no .creds file (a user's JWT and its nkey seed): make one with `nsc`"
        ) from error


def _require_seed(path: Path) -> None:
    try:
        nkeys.from_seed(bytearray(path.read_bytes().strip())).wipe()
    except OSError as error:
        raise ConfigError(f"the nkey seed {path} cannot be read ({error.strerror}): start the run's bus") from error
    except Exception as error:  # nkeys raises many kinds for what is no seed
        raise ConfigError(f"{path} is no nkey seed: delete it, `lwd up` makes another one") from error


def _jwt_name(credentials: Path) -> str:
    """Return the user's name in a .creds file; empty if it cannot be read, which is said elsewhere."""
    try:
        lines = credentials.read_text(errors="replace").splitlines()
        jwt = next(lines[at + 1] for at, line in enumerate(lines[:-1]) if _JWT_LINE in line)
        body = jwt.split(".")[1]
        name = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["name"]
    except (OSError, StopIteration, LookupError, ValueError, TypeError):
        return ""
    return name if isinstance(name, str) and re.match(NAME_PATTERN, name) else ""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError as error:
        shown = _without_secret(url)
        bare = shown.partition("://")[2].count(":") > 1 and "[" not in shown
        remedy = "; write an IPv6 address in brackets, such as nats://[::1]:4222" if bare else ""
        raise ConfigError(f"nats_url {shown!r} is no URL ({error}){remedy}") from error
    return parts


def _without_secret(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
