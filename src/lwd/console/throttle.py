"""Guessing passwords is slowed down: each attempt is counted before the password is looked at."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lwd.console.peers import network_of

FORGET_S = 3600.0
"""An attempt counts until so long after the last one."""
_FIRST_PAUSE_S = 30.0
_ROWS = 4
_CELLS = 65_536


@dataclass(frozen=True, kw_only=True)
class _Rule:
    free: int
    longest_s: float


_PAIR = _Rule(free=5, longest_s=900.0)
"""A name from one peer, or from one known browser: five attempts, then pauses of 30 s, 1 min, ... 15 min."""
_NAME = _Rule(free=50, longest_s=_FIRST_PAUSE_S)
"""A name from everywhere, known browsers apart: fifty attempts, then one every 30 s."""


class LoginThrottle:
    """Counts attempts by peer and name together, and by name; those of known browsers by themselves.

    The counts lie in a table of fixed size under keyed hashes (a count-min sketch): other names take no memory and push
    nobody's count out; in a table that is nearly full, somebody who has guessed nothing may have to wait.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._salt = secrets.token_bytes(16)
        self._counts = np.zeros((_ROWS, _CELLS))
        self._last_s = np.full((_ROWS, _CELLS), -np.inf)

    def attempt(self, name: str, peer: str, device: str | None = None) -> float:
        """Count an attempt.

        Args:
            device: of a known browser (`lwd.console.devices`); None: not known.
        Returns:
            0, or for how long to wait: then nothing is counted, and the password must not be looked at.
        """
        keys = _keys(name, peer, device)
        wait_s = max(self._wait_s(key, rule) for key, rule in keys)
        if wait_s == 0:
            for key, _ in keys:
                self._add(key)
        return wait_s

    def take_back(self, name: str, peer: str, device: str | None = None) -> None:
        """Do not count an attempt: its password was right, or was not looked at."""
        for key, _ in _keys(name, peer, device):
            at = self._at(key)
            self._counts[at] = np.maximum(self._counts[at] - 1, 0)

    def _wait_s(self, key: str, rule: _Rule) -> float:
        at = self._at(key)
        age_s = self._clock() - self._last_s[at]
        counts = np.where(age_s < FORGET_S, self._counts[at], 0)
        pauses_s = np.minimum(_FIRST_PAUSE_S * 2.0 ** np.minimum(counts - rule.free, 16), rule.longest_s)
        waits_s = np.where(counts >= rule.free, pauses_s - age_s, 0)
        return max(0.0, float(waits_s.min()))

    def _add(self, key: str) -> None:
        at, now_s = self._at(key), self._clock()
        counts = np.where(now_s - self._last_s[at] < FORGET_S, self._counts[at], 0)
        # Cells that others have raised above this key's count stay as they are.
        own = counts <= counts.min() + 1
        self._counts[at] = np.where(own, counts.min() + 1, counts)
        self._last_s[at] = np.where(own, now_s, self._last_s[at])

    def _at(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        digest = hashlib.blake2b(key.encode(), digest_size=4 * _ROWS, key=self._salt).digest()
        return np.arange(_ROWS), np.frombuffer(digest, "<u4").astype(np.int64) % _CELLS


def _keys(name: str, peer: str, device: str | None) -> tuple[tuple[str, _Rule], ...]:
    if device is not None:
        return ((f"device {device}", _PAIR),)
    return ((f"pair {network_of(peer)} {name}", _PAIR), (f"name {name}", _NAME))
