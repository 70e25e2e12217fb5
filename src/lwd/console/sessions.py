"""Who is logged in. Sessions live in this process: a restart of the console ends them all."""

import contextlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lwd.console.accounts import Role

LIFETIME_S = 12 * 3600.0
EACH = 32
"""Sessions of one person from one peer."""
_MAX_SESSIONS = 1024
_TABS = 16
"""WebSockets of one session."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One logged-in browser."""

    name: str
    role: Role
    csrf: str
    """What requests that change something must repeat in the header X-CSRF-Token, and each WebSocket must offer."""
    until_s: float


@dataclass(kw_only=True)
class _Kept:
    session: Session
    owner: tuple[str, str]
    """Peer and name."""
    used_s: float
    tabs: int = field(default=0)


class Sessions:
    """Sessions by the secret of their cookie.

    Where there are too many, the one goes that was idle longest, of the same person and peer; none that has a WebSocket
    open, so that nobody who drives a robot is thrown out.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, _Kept] = {}

    def begin(self, name: str, role: Role, peer: str = "") -> tuple[str, Session] | None:
        """Return the cookie's secret and the session; None if there are too many that are in use.

        Args:
            peer: where the browser is (`lwd.console.peers`).
        """
        now_s, owner = self._clock(), (peer, name)
        self._sessions = {key: each for key, each in self._sessions.items() if each.session.until_s > now_s}
        owners = Counter(each.owner for each in self._sessions.values())
        if owners[owner] >= EACH and not self._make_room(owner):
            return None
        if len(self._sessions) >= _MAX_SESSIONS and not any(
            self._make_room(greedy) for greedy, _ in owners.most_common()
        ):
            return None
        secret = secrets.token_urlsafe(32)
        session = Session(name=name, role=role, csrf=secrets.token_urlsafe(32), until_s=now_s + LIFETIME_S)
        self._sessions[secret] = _Kept(session=session, owner=owner, used_s=now_s)
        return secret, session

    def find(self, secret: str | None) -> Session | None:
        """Return the session of a cookie, None if there is none or it is over."""
        kept = self._sessions.get(secret or "")
        now_s = self._clock()
        if kept is None or kept.session.until_s <= now_s:
            return None
        kept.used_s = now_s
        return kept.session

    def end(self, secret: str | None) -> bool:
        """Log out; return whether anybody was logged in."""
        return self._sessions.pop(secret or "", None) is not None

    @contextlib.contextmanager
    def tab(self, secret: str | None) -> Iterator[bool]:
        """Keep a session while a WebSocket of it is open; gives whether it may have one more."""
        kept = self._sessions.get(secret or "")
        if kept is None or kept.tabs >= _TABS:
            yield False
            return
        kept.tabs += 1
        try:
            yield True
        finally:
            kept.tabs -= 1
            kept.used_s = self._clock()

    def _make_room(self, owner: tuple[str, str]) -> bool:
        idle = [key for key, each in self._sessions.items() if each.owner == owner and not each.tabs]
        if not idle:
            return False
        del self._sessions[min(idle, key=lambda key: self._sessions[key].used_s)]
        return True


def same_secret(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), expected.encode())
