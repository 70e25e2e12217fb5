"""Routes by which sessions begin and end, and who may use the others."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from lwd.console.accounts import MAX_PASSWORD, Role
from lwd.console.audit import AuditLog
from lwd.console.connections import mark_known
from lwd.console.logins import LINK_COMMAND, LOCAL_USER, Logins, SessionInfo
from lwd.console.proxy import ProxyLogin
from lwd.console.sessions import Session
from lwd.data.episode_file import NAME_PATTERN

REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": words}
    for code, words in (
        (401, "not logged in"),
        (403, "not allowed"),
        (404, "there is no such thing"),
        (408, "the request's body came too slowly"),
        (413, "the request's body is too long"),
        (421, "the Host header is not one of this console's names"),
        (422, "a field of the request is wrong"),
        (429, "too many at once, or too many wrong passwords"),
        (503, "the store, the bus or the simulator is not there"),
    )
}


class Login(BaseModel):
    """Name and password."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    password: str = Field(min_length=1, max_length=MAX_PASSWORD)


class NewSession(BaseModel):
    """What a link holds; behind a proxy nothing."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(default="", max_length=64)


def allowed(logins: Logins, role: Role) -> Callable[[Request], Awaitable[Session]]:
    """Return the dependency of routes that need a role."""

    async def check(request: Request) -> Session:
        session = await logins.session_of(request)
        if session is None:
            raise HTTPException(401, "log in first")
        mark_known(request.scope, session.name)
        if session.role < role:
            raise HTTPException(403, f"only an {role.label} may do that")
        if request.method not in ("GET", "HEAD") and not logins.is_of_page(request, session):
            raise HTTPException(403, "the header X-CSRF-Token is missing or wrong: load the page again")
        return session

    return check


def add_login_routes(app: FastAPI, logins: Logins, proxy: ProxyLogin | None, audit: AuditLog) -> None:
    """Add them to the interface."""

    @app.get("/api/session", responses=REFUSALS)
    async def get_session(request: Request) -> SessionInfo:
        """Say who is logged in, to the page that began the session: it repeats the session's X-CSRF-Token."""
        session = await logins.session_of(request)
        return logins.info(session if session is not None and logins.is_of_page(request, session) else None)

    @app.post("/api/session", responses=REFUSALS)
    async def begin_session(body: NewSession, request: Request, response: Response) -> SessionInfo:
        """Begin a session by the token of a link, or of whom the proxy names."""
        if proxy is not None:
            if (session := await logins.session_of(request)) is not None:
                return logins.info(session, with_csrf=True)
            name = proxy.name_in(request)
            role = await logins.role_behind(proxy, name)
        elif logins.kind == "link":
            name, role = LOCAL_USER, await logins.redeem(request, body.token)
        else:
            raise HTTPException(403, "this console has accounts: log in with name and password")
        begun = logins.begin(request, response, name, role)
        audit.append(name, "login")
        return begun

    @app.post("/api/login", responses=REFUSALS)
    async def login(body: Login, request: Request, response: Response) -> SessionInfo:
        """Begin a session."""
        if proxy is not None:
            raise HTTPException(403, "this console takes no passwords: log in at the proxy before it")
        if logins.kind == "link":
            raise HTTPException(403, f"this console has no accounts: open the link that {LINK_COMMAND} prints")
        role = await logins.log_in(request, body.name, body.password)
        begun = logins.begin(request, response, body.name, role)
        audit.append(body.name, "login")
        return begun

    viewer = Depends(allowed(logins, Role.VIEWER))

    @app.post("/api/logout", responses=REFUSALS)
    async def logout(request: Request, response: Response, session: Annotated[Session, viewer]) -> SessionInfo:
        """End the session."""
        logins.sessions.end(request.cookies.get(logins.cookie))
        response.delete_cookie(logins.cookie)
        audit.append(session.name, "logout")
        return logins.info(None)
