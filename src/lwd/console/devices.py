"""Browsers in which somebody has logged in before: nobody's guesses elsewhere keep their owner out."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from lwd.data import durable
from lwd.data.plain_file import read_plain_file

DEVICE_S = 180 * 86_400
_KEY_BYTES = 32


class Devices:
    """Gives browsers a cookie that says for which account they are known (OWASP: device cookies).

    It only decides how attempts are counted; it logs nobody in.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            path: where the key of the cookies is kept, mode 0600; without it all browsers are unknown again.
        Raises:
            ConfigError: if the file is no plain file.
            StoreError: if it cannot be written.
        """
        self._clock = clock
        key = read_plain_file(path, max_bytes=_KEY_BYTES)
        if key is None or len(key) != _KEY_BYTES:
            key = secrets.token_bytes(_KEY_BYTES)
            durable.ensure_directory(path.parent)
            durable.replace(path, key, mode=0o600)
        self._key = key

    def issue(self, name: str) -> str:
        """Return the cookie of a browser in which somebody has just logged in."""
        device, until_s = secrets.token_urlsafe(16), int(self._clock()) + DEVICE_S
        return f"{device}.{until_s}.{self._sign(name, device, until_s)}"

    def device_of(self, cookie: str | None, name: str) -> str | None:
        """Return which known browser of an account a cookie is of; None: of none."""
        device, _, rest = (cookie or "").partition(".")
        until, _, signature = rest.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 16 and int(until) > self._clock()):
            return None
        expected = self._sign(name, device, int(until))
        return device if hmac.compare_digest(signature.encode(), expected.encode()) else None

    def _sign(self, name: str, device: str, until_s: int) -> str:
        return hmac.new(self._key, f"{name}\n{device}\n{until_s}".encode(), hashlib.sha256).hexdigest()
