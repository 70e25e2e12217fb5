"""Links that log one browser in, once, at a console without accounts: whoever may read the run's files makes them."""

import contextlib
import hashlib
import secrets
from pathlib import Path

from lwd.commands import host_port, without_brackets
from lwd.console.accounts import Accounts
from lwd.data import durable

_KEEP = 16
"""Links that nobody has used yet; an older one no longer counts."""


class Links:
    """RUN/console/links: an empty file per unused link, named by the SHA-256 of its token. They outlast the console."""

    def __init__(self, run: Path) -> None:
        self._directory = run / "console" / "links"

    def new(self, url: str) -> str:
        """Return a link to the console at a URL.

        Raises:
            StoreError: if the run's directory cannot be written.
        """
        durable.ensure_directory(self._directory.parent)
        with durable.explained(self._directory):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            token = secrets.token_urlsafe(24)
            durable.replace(self._file(token), b"", mode=0o600)
            files = sorted(self._directory.iterdir(), key=lambda file: file.lstat().st_mtime_ns)
            for file in files[:-_KEEP]:
                file.unlink(missing_ok=True)
        # Behind the #: browsers send it to nobody, and it is in no proxy's log.
        return f"{url}/#/link/{token}"

    def redeem(self, token: str) -> bool:
        """Return whether a token's link was unused; from now on it is used."""
        with contextlib.suppress(OSError):
            # Of several who try at once, one removes the file.
            self._file(token).unlink()
            return True
        return False

    def _file(self, token: str) -> Path:
        return self._directory / hashlib.sha256(token.encode()).hexdigest()


def link_to(run: Path, port: int, host: str = "127.0.0.1") -> str:
    """Return what one opens to use the console at an address of loopback: a link, or with accounts just its address.

    Raises:
        ConfigError: if the accounts are damaged.
        StoreError: if the run's directory cannot be written.
    """
    url = f"http://{host_port(without_brackets(host), port)}"
    return url if len(Accounts(run / "console" / "accounts.json")) else Links(run).new(url)
