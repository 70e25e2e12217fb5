"""The object store: a directory or an S3 bucket that holds episodes, the commit log and policies.

Objects are written once and never changed. Everything else (exactly-once commits, fencing, retries) rests on
one promise: of several writers that create one key, exactly one wins. `probe_store` checks it at startup.
"""

import contextlib
import errno
import os
import stat
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from lwd.data import durable
from lwd.data.held_directory import HeldDirectory
from lwd.errors import ConfigError, ObjectExists, ObjectMissing, ObjectTooLarge, StoreError, StoreUnsafe

_PROBE_WRITERS = 2
_PROBE_RACES = 16
"""Pairs, because on SeaweedFS a third writer of a key may wait a second for its lock: .2 s instead of 1 to 4 s."""
_REMOTE_SCHEMES = ("s3", "s3a")
_CLIENT_OPTIONS = (
    *("allow_http", "allow_invalid_certificates", "root_certificate", "user_agent"),
    *("connect_timeout", "read_timeout", "timeout", "pool_idle_timeout", "pool_max_idle_per_host"),
    *("proxy_url", "proxy_ca_certificate", "proxy_excludes", "http1_only", "http2_only"),
)
"""Options of the HTTP client and not of the provider: obstore panics if they come in each other's place."""
_CLIENT_DEFAULTS = {"connect_timeout": "5s", "timeout": "30s"}
_RETRIES: "obstore.store.RetryConfig" = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
"""Few: whoever calls tries again and must hear of it (obstore's own are 10, for three minutes)."""
_SECRET_WORDS = ("secret", "token", "password", "access_key", "customer_key", "credential")
_REMEDY = "check network and credentials"


class Created(Enum):
    """What `create` found."""

    NEW = "new"
    IDENTICAL = "identical"
    """The same bytes were stored before: a retry after a lost answer."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object of a listing."""

    key: str
    size_bytes: int
    modified_s: float
    """Unix time."""


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where the store is."""

    url: str
    """A directory, `file:///...` or `s3://bucket/prefix`."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """obstore settings of a remote store, such as `endpoint`; secrets come from AWS_* in the environment."""

    def require_no_secret(self) -> None:
        """Refuse secrets where others could read them: on a command line, in a file.

        Raises:
            ConfigError: if URL or options hold one; the message does not.
        """
        if "@" in self.url.partition("://")[2].partition("/")[0]:
            raise ConfigError("the store's URL holds a user or a password: put them in AWS_* of the environment")
        for name, value in self.options.items():
            plain = name.lower().removeprefix("aws_")
            if any(word in plain for word in _SECRET_WORDS) or "@" in value.partition("://")[2]:
                raise ConfigError(
                    f"store option {name!r} is a secret, which others could read here: "
                    f"put it in the environment, as AWS_{plain.upper()}"
                )


class ObjectStore(Protocol):
    """Objects by key; keys are relative, with `/` between their parts."""

    def create(self, key: str, data: bytes) -> Created:
        """Store a new object durably; on return it is there completely.

        Raises:
            ObjectExists: if other bytes are stored under the key.
            StoreError: if the store cannot be reached or written; nothing or everything may have been stored.
        """

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return an object.

        Raises:
            ObjectMissing: if there is none.
            ObjectTooLarge: if it has more than `max_bytes`; then it is not downloaded.
            StoreError: if the store cannot be reached.
        """

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        """Yield the objects below `prefix/` whose key sorts after `start_after`, in order."""

    def delete(self, key: str) -> None:
        """Delete an object; one that is gone already is fine."""


def open_store(config: StoreConfig | str | Path, *, make: bool = True) -> ObjectStore:
    """Open a store.

    Args:
        make: create a directory that is missing; otherwise every use is an error until it is there.
    Raises:
        ConfigError: if the URL or an option is wrong.
    """
    if not isinstance(config, StoreConfig):
        config = StoreConfig(url=str(config))
    if (directory := directory_of(config)) is not None:
        if config.options:
            raise ConfigError(f"store options {sorted(config.options)} are for s3://; {config.url} is a directory")
        return DirectoryStore(directory, make=make)
    if config.url.partition("://")[0] not in _REMOTE_SCHEMES:
        raise ConfigError(f"store url {config.url!r} is not supported: give a directory or s3://bucket/prefix")
    options = {name: value for name, value in config.options.items() if name not in _CLIENT_OPTIONS}
    client = _client_options(config)
    endpoint = options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if endpoint.startswith("http://") and client.get("allow_http", "").lower() != "true":
        raise ConfigError(
            f"store endpoint {endpoint} is not encrypted: use https://, or allow it with "
            "--store-option allow_http=true (AWS_ALLOW_HTTP in the environment)"
        )
    try:
        # obstore has one overload per provider; the scheme, known only now, says which options there are.
        remote = from_url(  # type: ignore[call-overload]
            config.url, client_options=client, retry_config=_RETRIES, **options
        )
    except BaseException as error:
        # A wrong value can make obstore panic, and its PanicException is no Exception.
        if not isinstance(error, (BaseError, ValueError, TypeError)) and type(error).__name__ != "PanicException":
            raise
        raise ConfigError(
            f"store url {config.url!r} or its options {sorted(config.options)} are wrong ({_reason(error)}): "
            "give a directory or s3://bucket/prefix"
        ) from error
    return RemoteStore(remote, config.url)


def _client_options(config: StoreConfig) -> dict[str, str]:
    """Settings of the HTTP client: defaults, then the environment (obstore forgets it here), then what was given."""
    environment = {name: os.environ.get(f"AWS_{name.upper()}") for name in _CLIENT_OPTIONS}
    given = {name: value for name, value in config.options.items() if name in _CLIENT_OPTIONS}
    return _CLIENT_DEFAULTS | {name: value for name, value in environment.items() if value is not None} | given


def directory_of(config: StoreConfig) -> Path | None:
    """Return the directory that a store is; None for a remote one."""
    scheme, separator, rest = config.url.partition("://")
    if not separator:
        return Path(config.url)
    return Path(rest) if scheme == "file" else None


def get_or_none(store: ObjectStore, key: str) -> bytes | None:
    """Return an object, or None if there is none."""
    try:
        return store.get(key)
    except ObjectMissing:
        return None


def probe_store(store: ObjectStore) -> None:
    """Refuse a store that lets two writers both create one key: 16 races of two writers, all at once.

    Raises:
        StoreUnsafe: if a race had not exactly one winner, or if the winner's bytes are not what is stored.
        StoreError: if the store cannot be written.
    """
    keys = [f"probe/{uuid.uuid4().hex}" for _ in range(_PROBE_RACES)]
    entries = [(key, f"writer {number} of {key}".encode()) for key in keys for number in range(_PROBE_WRITERS)]
    barrier = threading.Barrier(len(entries))

    def race(key: str, payload: bytes) -> bool:
        barrier.wait(timeout=30)
        try:
            store.create(key, payload)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(len(entries)) as pool:
        races = [(key, payload, pool.submit(race, key, payload)) for key, payload in entries]
    # All have ended, before an error of one is raised: nobody writes any more when the keys are deleted.
    try:
        winners: dict[str, list[bytes]] = {key: [] for key in keys}
        for key, payload, ended in races:
            if ended.result():
                winners[key].append(payload)
        for key, won in winners.items():
            if len(won) != 1 or store.get(key) != won[0]:
                raise StoreUnsafe(
                    f"{len(won)} of {_PROBE_WRITERS} writers created one key of this store: it ignores "
                    "create-only PUTs; use a local directory, or an S3 service that honours If-None-Match"
                )
    finally:
        for key in keys:
            store.delete(key)


class DirectoryStore:
    """A store in a local directory; every create is on the disk before it returns.

    Objects are regular files. Links, pipes and devices below the directory are neither listed nor read. The
    directory is held: while the path is another one (an empty mount point), every call is a StoreError.
    """

    def __init__(self, root: Path, *, make: bool = True) -> None:
        self._root = root.absolute()
        self._held = HeldDirectory(self._root, make=make)

    def __str__(self) -> str:
        return str(self._root)

    @property
    def root(self) -> Path:
        """The directory."""
        return self._root

    def create(self, key: str, data: bytes) -> Created:
        path = self._path(key)
        self._held.require()
        created = durable.write_new(path, data)
        # Unmounted in between, it lies in the mount point, where nobody will ever look.
        self._held.require()
        return Created.NEW if created else _compare(key, data, self.get(key))

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        path = self._path(key)
        self._held.require()
        try:
            data = _read_regular(path, key, max_bytes)
            durable.settle(path.parent)
        except (FileNotFoundError, NotADirectoryError) as error:
            self._held.require()
            raise ObjectMissing(f"no object {key} in {self._root}") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
                raise ObjectMissing(f"no object {key} in {self._root}, but a link or a socket") from error
            raise StoreError(f"cannot read {key} in {self._root}: {error.strerror}; check the disk") from error
        return data

    def evict(self, key: str) -> None:
        """Drop an object from the page cache, so that it is read from the disk the next time."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        self._held.require()
        yield from _walk(self._path(prefix), prefix, start_after)
        # A listing that ends early because the disk went must not look complete.
        self._held.require()

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._held.require()
        if path.exists():
            durable.remove(path)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part or durable.is_temporary(part) for part in parts):
            raise StoreError(f"key {key!r} is no relative path of names: every part must be a plain name")
        return self._root.joinpath(*parts)


class RemoteStore:
    """A store behind obstore: S3 and what speaks its protocol."""

    def __init__(self, remote: "obstore.store.ObjectStore", url: str) -> None:
        self._remote = remote
        self._url = url

    def __str__(self) -> str:
        return self._url

    def create(self, key: str, data: bytes) -> Created:
        try:
            # use_multipart=False: only a single PUT can be conditional.
            obstore.put(self._remote, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return _compare(key, data, self.get(key))
        except BaseError as error:
            raise StoreError(f"cannot store {key} in {self._url} ({_reason(error)}): {_REMEDY}") from error
        return Created.NEW

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        try:
            # The answer's head has the size; its body is only read by `bytes`.
            found = obstore.get(self._remote, key)
            _require_size(key, found.meta["size"], max_bytes)
            return bytes(found.bytes())
        except (FileNotFoundError, NotFoundError) as error:
            raise ObjectMissing(f"no object {key} in {self._url}") from error
        except BaseError as error:
            raise StoreError(f"cannot read {key} in {self._url} ({_reason(error)}): {_REMEDY}") from error

    def list(self, prefix: str, start_after: str = "") -> Iterator[StoredObject]:
        # The whole listing is read before the first key is yielded (about .5 KB each): S3 lists in the order of
        # keys, but SeaweedFS does not (below), and whoever reads a listing relies on the order.
        try:
            # Not `offset=start_after`: SeaweedFS orders directories by name there and skips keys behind `a-b/`.
            pages = list(obstore.list(self._remote, prefix))
        except BaseError as error:
            raise StoreError(f"cannot list {prefix} in {self._url} ({_reason(error)}): {_REMEDY}") from error
        found = [meta for page in pages for meta in page if meta["path"] > start_after]
        for meta in sorted(found, key=lambda meta: meta["path"]):
            modified_s = meta["last_modified"].timestamp()
            yield StoredObject(key=meta["path"], size_bytes=meta["size"], modified_s=modified_s)

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._remote, key)
        except (FileNotFoundError, NotFoundError):
            return
        except BaseError as error:
            raise StoreError(f"cannot delete {key} in {self._url} ({_reason(error)}): {_REMEDY}") from error


def _reason(error: BaseException) -> str:
    """The first paragraph: obstore appends its internal structures."""
    return str(error).partition("\n\n")[0]


def _compare(key: str, data: bytes, stored: bytes) -> Created:
    if stored == data:
        return Created.IDENTICAL
    raise ObjectExists(f"{key} is stored with other bytes ({len(stored)}, not {len(data)}): use another key")


def _require_size(key: str, size_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise ObjectTooLarge(f"{key} has {size_bytes} bytes, more than {max_bytes}")


def _read_regular(path: Path, key: str, max_bytes: int | None) -> bytes:
    """Read a file; what is no regular file (a pipe would block for ever, a device never ends) is no object."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        _require_size(key, status.st_size, max_bytes)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _sort_key(entry: "os.DirEntry[str]") -> str:
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _walk(directory: Path, key: str, start_after: str) -> Iterator[StoredObject]:
    try:
        with os.scandir(directory) as found:
            # A directory sorts as its keys do: with the slash at its end.
            entries = sorted(found, key=_sort_key)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot list {directory} ({error.strerror}): check the disk") from error
    for entry in entries:
        child = f"{key}/{entry.name}"
        if durable.is_temporary(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            # Everything below sorts before `child + "0"`, the first string after `child + "/..."`.
            if f"{child}0" > start_after:
                yield from _walk(Path(entry.path), child, start_after)
        elif child > start_after and entry.is_file(follow_symlinks=False):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield StoredObject(key=child, size_bytes=status.st_size, modified_s=status.st_mtime)
