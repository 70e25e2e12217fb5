"""Who may use the console: local accounts with a role and a hashed password, in RUN/console/accounts.json."""

import re
from collections.abc import Awaitable, Callable
from enum import IntEnum
from pathlib import Path

from argon2 import PasswordHasher
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data import durable
from lwd.data.episode_file import NAME_PATTERN
from lwd.data.plain_file import read_plain_file
from lwd.errors import ConfigError

MIN_PASSWORD = 10
MAX_PASSWORD = 1024
_MAX_FILE_BYTES = 1 << 22
_LOOKED_AT = 72
"""Characters that zxcvbn takes at most."""
_MIN_SCORE = 3
"""zxcvbn's score from 100 million guesses on."""


class Role(IntEnum):
    """What somebody may do; each role may do what those before it may."""

    VIEWER = 0
    """Look at everything but the audit log."""
    OPERATOR = 1
    """Take robots over, and label episodes."""
    ADMIN = 2
    """Read the audit log."""

    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> "Role":
        """Return the role of a name.

        Raises:
            ConfigError: if there is none.
        """
        try:
            return cls[label.upper()]
        except KeyError as error:
            raise ConfigError(f"role is {label!r}; use viewer, operator or admin") from error


class _Account(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    role: str
    password_hash: str | None
    """None: the account of somebody whom only a proxy can log in."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    accounts: tuple[_Account, ...] = ()


class Accounts:
    """The accounts of one run. A changed file counts from the next start of the console on."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ConfigError: if the file is damaged.
        """
        self._path = path
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash("the password of nobody")
        try:
            content = read_plain_file(path, max_bytes=_MAX_FILE_BYTES)
            found = () if content is None else _File.model_validate_json(content).accounts
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{path} is damaged ({first['msg']}): mend it, or delete it and add accounts") from error
        for account in found:
            Role.of(account.role)
        self._accounts = {account.name: account for account in found}

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def has_passwords(self) -> bool:
        """Whether anybody can log in with a password."""
        return any(account.password_hash is not None for account in self._accounts.values())

    def put(self, name: str, role: Role, password: str | None) -> None:
        """Add an account, or give one another role and password; durable on return.

        Args:
            password: None: it can only be logged in to by a proxy (`lwd.console.proxy`).
        Raises:
            ConfigError: if the name or the password will not do.
        """
        if not re.match(NAME_PATTERN, name):
            raise ConfigError(f"name is {name!r}; use letters, digits, dot, dash and underscore, 128 at most")
        if password is not None and not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise ConfigError(f"the password has {len(password)} characters; use {MIN_PASSWORD} to {MAX_PASSWORD}")
        if password is not None:
            _require_strong(name, password)
        password_hash = None if password is None else self._hasher.hash(password)
        self._accounts[name] = _Account(name=name, role=role.label, password_hash=password_hash)
        content = _File(accounts=tuple(self._accounts.values())).model_dump_json(indent=2)
        durable.ensure_directory(self._path.parent)
        durable.replace(self._path, content.encode(), mode=0o600)

    async def role_of(self, name: str, password: str, matches: Callable[[str, str], Awaitable[bool]]) -> Role | None:
        """Return the role of who logs in; None if name or password is wrong. Takes as long for an unknown name.

        Args:
            matches: says whether a hash (first) is of a password (second).
        """
        account = self._accounts.get(name)
        expected = None if account is None else account.password_hash
        matched = await matches(expected or self._nobody, password)
        return Role.of(account.role) if account is not None and expected is not None and matched else None

    def role_named(self, name: str) -> Role | None:
        """Return the role of somebody whom a proxy has logged in; None if there is no such account."""
        account = self._accounts.get(name)
        return None if account is None else Role.of(account.role)


def _require_strong(name: str, password: str) -> None:
    # Here, not above: its word lists take a moment, and only who adds an account needs them.
    from zxcvbn import zxcvbn

    found = zxcvbn(password[:_LOOKED_AT], user_inputs=[name, "lwd", "robot", "console"])
    if found["score"] < _MIN_SCORE:
        reason = found["feedback"]["warning"].rstrip(".") or "it is easily guessed"
        raise ConfigError(f"the password of {name} is too weak ({reason}): use four words that nothing connects")
