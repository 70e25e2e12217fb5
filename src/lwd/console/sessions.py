"""Who is logged in. Sessions live in this process: a restart of the console ends them all."""

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from lwd.console.accounts import Role

COOKIE = "lwd_session"
LIFETIME_S = 12 * 3600.0
_MAX_SESSIONS = 1000
_FREE_FAILURES = 5
_PAUSE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """One logged-in browser."""

    name: str
    role: Role
    csrf: str
    """What each request that changes something must repeat in the header X-CSRF-Token."""
    until_s: float


class Sessions:
    """Sessions by the secret of their cookie."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def begin(self, name: str, role: Role) -> tuple[str, Session]:
        """Return the cookie's secret and the session."""
        now_s = self._clock()
        self._sessions = {key: each for key, each in self._sessions.items() if each.until_s > now_s}
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        secret = secrets.token_urlsafe(32)
        session = Session(name=name, role=role, csrf=secrets.token_urlsafe(32), until_s=now_s + LIFETIME_S)
        self._sessions[secret] = session
        return secret, session

    def find(self, secret: str | None) -> Session | None:
        """Return the session of a cookie, None if there is none or it is over."""
        session = self._sessions.get(secret or "")
        return session if session is not None and session.until_s > self._clock() else None

    def end(self, secret: str | None) -> bool:
        """Log out; return whether anybody was logged in."""
        return self._sessions.pop(secret or "", None) is not None


class LoginThrottle:
    """Slows guessing down: after five wrong passwords for a name, half a minute's pause after each further one."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def wait_s(self, name: str) -> float:
        """Return for how long the name may not try."""
        count, last_s = self._failures.get(name, (0, 0.0))
        return max(0.0, last_s + _PAUSE_S - self._clock()) if count >= _FREE_FAILURES else 0.0

    def note(self, name: str, *, success: bool) -> None:
        """Count an attempt."""
        if success:
            self._failures.pop(name, None)
            return
        if len(self._failures) > 10_000:
            self._failures.clear()
        count, _ = self._failures.get(name, (0, 0.0))
        self._failures[name] = (count + 1, self._clock())


def same_secret(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), expected.encode())
