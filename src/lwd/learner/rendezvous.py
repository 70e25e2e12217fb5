"""How the processes of a learner group find each other, and what they listen on.

On one machine they meet in a file of a private directory and talk over the loopback interface. Over several machines
rank 0 serves a key-value store on a socket that is bound to one private address, and no other.
`lwd learner --processes` starts the processes and tells each its place (`Member`) in the environment. Neither store
keeps anything that is unpickled.
"""

import contextlib
import ipaddress
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from lwd.commands import host_port, without_brackets
from lwd.errors import ConfigError, ServiceError
from lwd.learner.interfaces import Address, interface_of, listening_addresses, loopback_interface

VARIABLE = "LWD_LEARNER_MEMBER"
_STORE = "store"
_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
]


class Member(BaseModel):
    """The place of one process in its group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(ge=0)
    size: int = Field(ge=2)
    local_rank: int = Field(ge=0)
    """Its place on this machine: the index of its GPU."""
    directory: Path | None = None
    """Private to this start of the group; None: the group spans several machines."""
    address: str | None = None
    """Where rank 0 serves the key-value store of such a group."""
    port: int | None = Field(default=None, ge=1, le=65535)

    @model_validator(mode="after")
    def _one_place(self) -> "Member":
        if self.rank >= self.size or (self.directory is None) != (self.address is not None and self.port is not None):
            raise ValueError("rank must be below size, and the group has either a directory or an address and a port")
        return self

    @property
    def variables(self) -> dict[str, str]:
        """What the process finds in its environment."""
        return {VARIABLE: self.model_dump_json(exclude_none=True)}


def member_from_environment() -> Member | None:
    """Return this process's place in a group; None: it trains alone.

    Raises:
        ConfigError: if `torchrun` started it, or the variable is damaged.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        require_no_torchrun()
        return None
    try:
        return Member.model_validate_json(given)
    except ValidationError as error:
        raise ConfigError(
            f"{VARIABLE} is set to something that `lwd learner --processes` does not write "
            f"({error.errors(include_url=False)[0]['msg']}): unset it"
        ) from error


def require_no_torchrun() -> None:
    """Refuse to be one of torchrun's processes: its stores listen on all interfaces, and one runs what it is sent.

    Raises:
        ConfigError: naming the variable and the command to use.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    for name, present in (("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RUN_ID" in os.environ), ("WORLD_SIZE", size != "1")):
        if present:
            raise ConfigError(
                f"{name} is set to {os.environ[name]!r}, as by torchrun, which lets anybody on the network run code "
                "here: start `lwd learner --processes N` instead, or unset it"
            )


# ---- one machine ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """Yield a new directory that only this user can enter; it is removed afterwards.

    Raises:
        ConfigError: if other users could replace it.
    """
    directory = Path(tempfile.mkdtemp(prefix="lwd-learner-")).resolve()
    try:
        require_private(directory)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def require_private(directory: Path) -> None:
    """Check that nobody else can enter a directory, or put another one in its place.

    Raises:
        ConfigError: naming what is wrong, and what to do.
    """
    try:
        found = directory.lstat()
        parents = [(parent, parent.lstat()) for parent in directory.parents]
    except OSError as error:
        raise ConfigError(f"{directory} cannot be looked at ({error.strerror}): start the learner again") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{directory} is no directory that user {os.geteuid()} alone can enter (mode "
            f"{stat.filemode(found.st_mode)}, owner {found.st_uid}): start the learner again"
        )
    for parent, status in parents:
        others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
        foreign = status.st_uid not in (0, os.geteuid())
        if not stat.S_ISDIR(status.st_mode) or foreign or (others and not status.st_mode & stat.S_ISVTX):
            raise ConfigError(
                f"other users can replace what is in {parent} (mode {stat.filemode(status.st_mode)}, owner "
                f"{status.st_uid}): set TMPDIR to a directory of your own"
            )


# ---- several machines ----------------------------------------------------------------------------------------------


def private_address(text: str) -> tuple[str, int]:
    """Split ADDRESS:PORT (an IPv6 address in brackets) and check that it is of a private network.

    Raises:
        ConfigError: if it is malformed, a name, or an address that the internet or every interface could reach.
    """
    host, _, port = text.rpartition(":")
    try:
        # Without brackets nobody can tell whether the last number is a port or the end of the address.
        if not port.isascii() or not 1 <= int(port) <= 65535 or (":" in host) != (host[:1] == "["):
            raise ValueError
        address = ipaddress.ip_address(without_brackets(host))
    except ValueError as error:
        raise ConfigError(
            f"rendezvous is {text!r}: give ADDRESS:PORT, the private address of the first machine as a number, such as "
            "10.0.0.1:29400 or [fd00::1]:29400"
        ) from error
    require_private_address(address)
    return str(address), int(port)


def require_private_address(address: Address) -> None:
    """
    Raises:
        ConfigError: if an address is not of a private network.
    """
    if not any(address in network for network in _PRIVATE):
        kind = "every interface" if address.is_unspecified else "no private network"
        raise ConfigError(
            f"rendezvous address {address} is of {kind}: whoever reaches it can read and alter the training; use an "
            "address of 10/8, 172.16/12, 192.168/16, fc00::/7 or loopback that only trusted machines reach"
        )


def exposure(address: str, port: int) -> str:
    """Say what whoever reaches a group's address can do."""
    return (
        f"whoever reaches {host_port(address, port)}, or another port of these processes on that network, can read the "
        "training data and the weights, alter the training, and put weights of their own into the policy that robots "
        "get: nothing is encrypted or authenticated there. Let only trusted machines reach it"
    )


# ---- joining -------------------------------------------------------------------------------------------------------


def open_store(member: Member, timeout_s: float) -> Store:
    """Open the store of a group, and tell torch.distributed which interface to use.

    Raises:
        ConfigError: if the directory or the address is not private.
        ServiceError: if the store cannot be reached within the time limit.
    """
    limit = timedelta(seconds=timeout_s)
    if member.directory is not None:
        require_private(member.directory)
        _use_interface(loopback_interface())
        store: Store = FileStore(str(member.directory / _STORE), member.size)
        store.set_timeout(limit)
        return store
    assert member.address is not None
    assert member.port is not None
    require_private_address(ipaddress.ip_address(member.address))
    own = own_address(member)
    require_private_address(own)
    _use_interface(interface_of(own))
    try:
        listener = _listen(member.address, member.port) if member.rank == 0 else None
        return TCPStore(
            member.address,
            member.port,
            member.size,
            is_master=listener is not None,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=listener,
        )
    except (RuntimeError, OSError) as error:
        raise ServiceError(
            f"learner process {member.rank} of {member.size} cannot meet the others at "
            f"{host_port(member.address, member.port)} ({str(error).splitlines()[0]}): start `lwd learner` with the "
            "same --rendezvous on every machine, on the one with that address with --host-rank 0"
        ) from error


def require_private_sockets(member: Member) -> None:
    """Check what this process really listens on, once it has joined (on Linux).

    Raises:
        ConfigError: if it listens on anything but loopback and its own private address.
    """
    own = None if member.directory is not None else own_address(member)
    for address, port in listening_addresses():
        if not address.is_loopback and address != own:
            raise ConfigError(
                f"torch.distributed listens on {host_port(str(address), port)}, which is neither loopback nor {own}: "
                "use an interface that has the rendezvous address alone"
            )


def own_address(member: Member) -> Address:
    """Return the address of this machine from which a group's rendezvous is reached."""
    assert member.address is not None
    assert member.port is not None
    family = socket.AF_INET6 if ":" in member.address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((member.address, member.port))  # of a datagram socket: nothing is sent
            return ipaddress.ip_address(probe.getsockname()[0])
    except OSError as error:
        raise ServiceError(
            f"no way leads from here to {member.address} ({error.strerror}): check the network"
        ) from error


def _listen(address: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family).detach()


def _use_interface(name: str) -> None:
    """Of gloo and NCCL, whatever the environment said: both take the host name's, or any, address otherwise."""
    os.environ["GLOO_SOCKET_IFNAME"] = name
    os.environ["NCCL_SOCKET_IFNAME"] = f"={name}"
