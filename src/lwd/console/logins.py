"""Who is connected: sessions begun by a password, by a proxy's word, or by nobody on loopback."""

from typing import Literal

from fastapi import HTTPException, Response
from fastapi.requests import HTTPConnection
from pydantic import BaseModel

from lwd.console.accounts import Accounts, Role
from lwd.console.audit import AuditLog
from lwd.console.proxy import ProxyLogin
from lwd.console.sessions import COOKIE, LIFETIME_S, LoginThrottle, Session, Sessions

LOCAL_USER = "local"
"""Who uses a console without accounts: whoever can reach this machine's loopback."""


class SessionInfo(BaseModel):
    """Who is logged in; without anybody, name and role are empty."""

    name: str = ""
    role: str = ""
    csrf: str = ""
    login: Literal["none", "password", "proxy"]
    """How one logs in here."""


class Logins:
    """The sessions of one console. Methods that write to the audit log block on the disk: call them in a thread."""

    def __init__(
        self, accounts: Accounts, proxy: ProxyLogin | None, audit: AuditLog, *, secure_cookies: bool = False
    ) -> None:
        """
        Args:
            proxy: who logs people in instead of passwords.
        """
        self._accounts = accounts
        self._proxy = proxy
        self._audit = audit
        self._secure_cookies = secure_cookies
        self.sessions = Sessions()
        self.throttle = LoginThrottle()

    @property
    def kind(self) -> Literal["none", "password", "proxy"]:
        """How one logs in; "none": whoever connects may do everything."""
        if self._proxy is not None:
            return "proxy"
        return "password" if len(self._accounts) else "none"

    def info(self, session: Session | None) -> SessionInfo:
        if session is None:
            return SessionInfo(login=self.kind)
        return SessionInfo(name=session.name, role=session.role.label, csrf=session.csrf, login=self.kind)

    def session_of(self, connection: HTTPConnection) -> Session | None:
        """Return the session of a connection's cookie; one of somebody whom the proxy does not name any more ends.

        Raises:
            HTTPException: if the proxy names nobody, or not as it should.
        """
        secret = connection.cookies.get(COOKIE)
        session = self.sessions.find(secret)
        if self._proxy is None:
            return session
        named = ""
        try:
            named = self._proxy.name_in(connection)
        finally:
            if session is not None and session.name != named and self.sessions.end(secret):
                self._audit.append(session.name, "logout")
        return session if session is not None and session.name == named else None

    def role_behind(self, proxy: ProxyLogin, name: str) -> Role:
        """Return what somebody may do whom the proxy has logged in.

        Raises:
            HTTPException: if they may do nothing.
        """
        role = self._accounts.role_named(name)
        role = proxy.role if role is None else role
        if role is None:
            self.note_refusal(name, "has no account")
            raise HTTPException(
                403,
                f"{name} has no account here: `lwd console account --run RUN --name {name} --role viewer --proxy-only` "
                "adds it, from the next start of the console on",
            )
        return role

    def note_refusal(self, who: str, why: str) -> None:
        """Write to the audit log who was refused; somebody who does not give up, twice a minute."""
        if self.throttle.wait_s(who) == 0:
            self.throttle.note(who, success=False)
            self._audit.append(who, "login refused", refused=why)

    def begin(self, response: Response, name: str, role: Role) -> SessionInfo:
        """Begin a session, whose cookie goes with the response."""
        secret, session = self.sessions.begin(name, role)
        response.set_cookie(
            COOKIE, secret, max_age=int(LIFETIME_S), httponly=True, samesite="strict", secure=self._secure_cookies
        )
        return self.info(session)
