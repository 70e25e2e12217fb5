"""Who is connected: sessions begun by a password, by a proxy's word, or by a link."""

import asyncio
from typing import Literal

from fastapi import HTTPException, Response
from fastapi.requests import HTTPConnection
from pydantic import BaseModel
from starlette.types import Scope

from lwd.console.accounts import Accounts, Role
from lwd.console.audit import AuditLog
from lwd.console.devices import DEVICE_S, Devices
from lwd.console.links import Links
from lwd.console.passwords import PasswordChecks
from lwd.console.peers import network_of
from lwd.console.proxy import ProxyLogin, peer_of
from lwd.console.refusals import Refusals
from lwd.console.sessions import LIFETIME_S, Session, Sessions, same_secret
from lwd.console.throttle import LoginThrottle
from lwd.errors import ServiceError

LOCAL_USER = "local"
"""Who uses a console without accounts: whoever has a link from the run's directory."""
LINK_COMMAND = "`lwd console link --run RUN`"


class SessionInfo(BaseModel):
    """Who is logged in; without anybody, name and role are empty."""

    name: str = ""
    role: str = ""
    csrf: str = ""
    """Given once, where the session begins."""
    login: Literal["link", "password", "proxy"]
    """How one logs in here."""


class Logins:
    """The sessions of one console."""

    def __init__(
        self,
        accounts: Accounts,
        proxy: ProxyLogin | None,
        audit: AuditLog,
        refusals: Refusals,
        devices: Devices,
        links: Links,
        *,
        cookie_suffix: str = "",
        secure_cookies: bool = False,
    ) -> None:
        """
        Args:
            proxy: who logs people in instead of passwords.
            cookie_suffix: browsers send a cookie to all ports of a machine: with the port, consoles keep theirs apart.
        """
        self._accounts = accounts
        self._proxy = proxy
        self._audit = audit
        self._refusals = refusals
        self._devices = devices
        self._links = links
        self._secure_cookies = secure_cookies
        self._throttle = LoginThrottle()
        self._device_cookie = f"lwd_device{cookie_suffix}"
        self.cookie = f"lwd_session{cookie_suffix}"
        self.sessions = Sessions()
        self.checks = PasswordChecks()

    @property
    def kind(self) -> Literal["link", "password", "proxy"]:
        """How one logs in."""
        if self._proxy is not None:
            return "proxy"
        return "password" if len(self._accounts) else "link"

    def info(self, session: Session | None, *, with_csrf: bool = False) -> SessionInfo:
        if session is None:
            return SessionInfo(login=self.kind)
        csrf = session.csrf if with_csrf else ""
        return SessionInfo(name=session.name, role=session.role.label, csrf=csrf, login=self.kind)

    def who(self, scope: Scope) -> str:
        """Return whose session a request's cookie is of; empty: nobody's. What they may do is another question."""
        session = self.sessions.find(HTTPConnection(scope).cookies.get(self.cookie))
        return "" if session is None else session.name

    async def session_of(self, connection: HTTPConnection) -> Session | None:
        """Return the session of a connection's cookie; one of somebody whom the proxy does not name any more ends.

        Raises:
            HTTPException: if the proxy names nobody, or not as it should.
        """
        secret = connection.cookies.get(self.cookie)
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

    async def log_in(self, connection: HTTPConnection, name: str, password: str) -> Role:
        """Return the role of who logs in with a password.

        Raises:
            HTTPException: if name or password is wrong, or after too many attempts.
            ServiceError: if passwords cannot be checked.
        """
        peer = network_of(peer_of(connection))
        device = self._devices.device_of(connection.cookies.get(self._device_cookie), name)
        known = device is not None
        self.checks.require_room(peer=device or peer, known=known)
        # No await up to here: attempts that come at the same time are counted one after the other.
        if (wait_s := self._throttle.attempt(name, peer, device)) > 0:
            raise HTTPException(
                429, f"too many attempts: wait {wait_s:.0f} s", headers={"Retry-After": f"{wait_s:.0f}"}
            )

        async def matches(password_hash: str, given: str) -> bool:
            return await self.checks.matches(password_hash, given, peer=device or peer, known=known)

        try:
            role = await self._accounts.role_of(name, password, matches)
        except ServiceError:
            self._throttle.take_back(name, peer, device)
            raise
        if role is None:
            await self._refusals.note(name, "login refused", "name or password is wrong")
            raise HTTPException(401, "name or password is wrong")
        self._throttle.take_back(name, peer, device)
        return role

    async def role_behind(self, proxy: ProxyLogin, name: str) -> Role:
        """Return what somebody may do whom the proxy has logged in.

        Raises:
            HTTPException: if they may do nothing.
        """
        role = self._accounts.role_named(name)
        role = proxy.role if role is None else role
        if role is None:
            await self._refusals.note(name, "login refused", "has no account")
            raise HTTPException(
                403,
                f"{name} has no account here: `lwd console account --run RUN --name {name} --role viewer --proxy-only` "
                "adds it, from the next start of the console on",
            )
        return role

    async def redeem(self, connection: HTTPConnection, token: str) -> Role:
        """Return the role of who has a link.

        Raises:
            HTTPException: if the link was used, or never was one.
        """
        if not token:
            raise HTTPException(401, f"this console opens with a link: {LINK_COMMAND} prints one")
        if not await asyncio.to_thread(self._links.redeem, token):
            await self._refusals.note(peer_of(connection), "login refused", "the link is used or unknown")
            raise HTTPException(401, f"this link is used, or never was one: {LINK_COMMAND} prints a new one")
        return Role.ADMIN

    def begin(self, connection: HTTPConnection, response: Response, name: str, role: Role) -> SessionInfo:
        """Begin a session, whose cookie goes with the response.

        Raises:
            HTTPException: if this person has too many open.
        """
        begun = self.sessions.begin(name, role, network_of(peer_of(connection)))
        if begun is None:
            raise HTTPException(429, f"{name} has too many sessions open: log out elsewhere, or close their pages")
        secret, session = begun
        self._set(response, self.cookie, secret, LIFETIME_S)
        if self.kind == "password":
            self._set(response, self._device_cookie, self._devices.issue(name), DEVICE_S)
        return self.info(session, with_csrf=True)

    def is_of_page(self, connection: HTTPConnection, session: Session) -> bool:
        """Whether a request repeats its session's token: cookies go to all ports of a machine, the token to none."""
        return same_secret(connection.headers.get("x-csrf-token", ""), session.csrf)

    def _set(self, response: Response, name: str, value: str, seconds: float) -> None:
        response.set_cookie(
            name, value, max_age=int(seconds), httponly=True, samesite="strict", secure=self._secure_cookies
        )
