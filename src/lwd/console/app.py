"""The console's HTTP and WebSocket interface. docs/console.md describes the protocol."""

import asyncio
import contextlib
import importlib.resources
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict

from lwd.console.accounts import Accounts, Role
from lwd.console.audit import AuditLog
from lwd.console.audit_anchor import AuditAnchors
from lwd.console.background import Background
from lwd.console.bodies import BodyLimit
from lwd.console.connections import mark_known
from lwd.console.desk_audit import DeskAudit
from lwd.console.devices import Devices
from lwd.console.emergency_stop import EmergencyStop, add_stop_routes
from lwd.console.episodes import MAX_ROWS, EpisodeFilter, Episodes
from lwd.console.fleet_link import FleetLink
from lwd.console.fleet_view import FleetView
from lwd.console.heavy import HeavyWork
from lwd.console.lanes import Lane
from lwd.console.learning import LearningView
from lwd.console.links import Links
from lwd.console.live import LiveClient
from lwd.console.login_routes import REFUSALS, add_login_routes, allowed
from lwd.console.logins import Logins
from lwd.console.proxy import ProxyLogin, peer_of
from lwd.console.refusals import Refusals
from lwd.console.sessions import Session, same_secret
from lwd.console.turns import Turns
from lwd.console.value_feed import ValueFeed
from lwd.errors import ConfigError, EpisodeRejected, LWDError, ServiceError, StoreError
from lwd.fleet.bus_config import BusConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Outcome, episode_identity

LIVE_PROTOCOL = "lwd.live"
"""WebSocket subprotocol of /api/live; beside it browsers offer "csrf." with their session's token."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What the interface needs to know."""

    run: RunDirectory
    bus: Callable[[], BusConfig]
    origins: frozenset[str]
    """Exact origins, such as https://console.example; requests that change something come from nowhere else."""
    accounts: Accounts
    """Without any, who opens a link from the run's directory is an administrator: for loopback only."""
    proxy: ProxyLogin | None = None
    """Who logs people in instead of passwords. Connections must have the address of their peer, not a forwarded one."""
    secure_cookies: bool = False
    port: int | None = None
    """Where it listens; part of its cookies' names."""


class NewLabel(BaseModel):
    """What the outcome should have been."""

    model_config = ConfigDict(extra="forbid")

    outcome: Literal["success", "failure", "time_limit", "truncated"]


class LabelChange(BaseModel):
    """Where the episode with the new label is."""

    episode_id: str
    snapshot: int


class _Console:
    """State of one running console; its methods are the routes."""

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self.view = FleetView()
        self.audit = AuditLog(config.run.path / "console" / "audit.jsonl")
        self.refusals = Refusals(self.audit)
        self.values = ValueFeed(config.run.path, self.view)
        self.link = FleetLink(config.bus, self.view, self.values, DeskAudit(self.audit).on_control)
        self.stop = EmergencyStop(config.run.path, self.audit, self.link.on_change)
        self.link.on_connect, self.view.stop = self.stop.attach, self.stop.view
        self.logins = Logins(
            config.accounts,
            config.proxy,
            self.audit,
            self.refusals,
            Devices(config.run.path / "console" / "devices.key"),
            Links(config.run.path),
            cookie_suffix="" if config.port is None else f"_{config.port}",
            secure_cookies=config.secure_cookies,
        )
        self.episodes = Episodes(config.run)
        self.learning = LearningView(config.run)
        self.heavy = HeavyWork()
        self.background = Background()
        # Threads of their own: whatever the store does, other requests and take-overs do not wait behind it.
        self.reads = Lane("reads", threads=4, everybody=128, each=32)
        self.summaries = Lane("summaries", threads=1, everybody=32, each=4)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.background.start("the link to the fleet", self.link.run())
        self.background.start("the feed of values", self.values.run())
        self.background.start("stops", self.stop.run())
        self.background.start("the audit log's anchoring", AuditAnchors(self.audit, self.config.run.store).run())
        self.background.start("the audit log's refusals", self.refusals.run())
        try:
            yield
        finally:
            await self.background.close()
            await self.logins.checks.close()
            await self.heavy.close()
            self.reads.close()
            self.summaries.close()
            self.refusals.close()
            await asyncio.to_thread(self.audit.close)


def create_app(config: AppConfig) -> FastAPI:
    """Build the interface of one run's console.

    Raises:
        ConfigError: if the audit log cannot be written.
    """
    console = _Console(config)
    app = FastAPI(title="LWD console", version="1", lifespan=console.lifespan, docs_url=None, redoc_url=None)
    hosts = frozenset(origin.partition("://")[2] for origin in config.origins)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        # A page of another site whose name is made to point at us sends its own name as Host.
        if request.headers.get("host", "") not in hosts:
            return JSONResponse({"detail": "this console has another name: see --origin"}, status_code=421)
        if config.proxy is not None and config.proxy.is_forged(request):
            words = config.proxy.forged(request)
            await console.refusals.note(peer_of(request), "login refused", words)
            return JSONResponse({"detail": words}, status_code=403)
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and origin is not None and origin not in config.origins:
            return JSONResponse({"detail": "requests from this origin are not accepted"}, status_code=403)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        if request.url.path.startswith("/api/"):
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.exception_handler(LWDError)
    async def explain(_: Request, error: LWDError) -> Response:
        status = 404 if isinstance(error, ConfigError) else 503 if isinstance(error, ServiceError | StoreError) else 500
        return JSONResponse({"detail": str(error)}, status_code=status)

    @app.exception_handler(RequestValidationError)
    async def explain_field(_: Request, error: RequestValidationError) -> Response:
        # Only what is wrong: giving back what was sent would cost more than reading it.
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return JSONResponse({"detail": f"{where}: {first['msg']}"[:500]}, status_code=422)

    add_login_routes(app, console.logins, config.proxy, console.audit)
    viewer, operator, admin = (Depends(allowed(console.logins, role)) for role in Role)

    @app.get("/api/fleet", dependencies=[viewer], responses=REFUSALS)
    async def fleet() -> dict[str, Any]:
        """Return the newest state of all robots, hosts, learner and coordinator."""
        return {"bus": console.link.connected, **console.view.snapshot()}

    add_stop_routes(app, console.stop, viewer, operator, REFUSALS)

    @app.get("/api/learning", responses=REFUSALS)
    async def learning(session: Annotated[Session, viewer]) -> dict[str, Any]:
        """Return curves, latencies, versions, quarantine and storage."""
        return await console.summaries.run(session.name, console.learning.content)

    def conditions(
        task: str = "",
        robot: str = "",
        outcome: str = "",
        source: str = "",
        policy_version: int | None = None,
        helped: bool | None = None,
    ) -> EpisodeFilter:
        return EpisodeFilter(
            task=task, robot=robot, outcome=outcome, source=source, policy_version=policy_version, helped=helped
        )

    @app.get("/api/episodes", responses=REFUSALS)
    async def episodes(
        session: Annotated[Session, viewer],
        wanted: Annotated[EpisodeFilter, Depends(conditions)],
        snapshot: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 50,
    ) -> dict[str, Any]:
        """Return episodes of a snapshot, newest first."""
        return await console.reads.run(
            session.name, console.episodes.page, wanted, snapshot=snapshot, offset=offset, limit=limit
        )

    @app.get("/api/export", responses={**REFUSALS, 200: {"content": {"application/x-tar": {}}}})
    async def export(
        wanted: Annotated[EpisodeFilter, Depends(conditions)],
        session: Annotated[Session, operator],
        snapshot: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    ) -> StreamingResponse:
        """Return the episodes of a snapshot that fulfil the conditions as a tar file (see lwd.console.export)."""
        version, items = await console.reads.run(session.name, console.episodes.select, wanted, snapshot=snapshot)
        parts = await console.reads.run(session.name, console.episodes.tar, items, version)
        # The lease is taken here: what is wrong with the snapshot is said instead of ending the download.
        first = await console.reads.run(session.name, next, parts)
        given = {name: value for name, value in asdict(wanted).items() if value not in ("", None)}
        console.audit.append(session.name, "export", snapshot=version, episodes=len(items), conditions=given)
        return StreamingResponse(
            itertools.chain([first], parts),
            media_type="application/x-tar",
            headers={"Content-Disposition": f'attachment; filename="episodes-snapshot-{version}.tar"'},
        )

    @app.get("/api/episodes/{robot_id}/{episode_id}", responses=REFUSALS)
    async def episode(robot_id: str, episode_id: str, session: Annotated[Session, viewer]) -> dict[str, Any]:
        """Return one episode with its actions and who was in control."""
        return await console.reads.run(session.name, console.episodes.detail, episode_identity(robot_id, episode_id))

    @app.post(
        "/api/episodes/{robot_id}/{episode_id}/label", responses={**REFUSALS, 409: {"description": "it cannot be so"}}
    )
    async def label(
        robot_id: str, episode_id: str, body: NewLabel, session: Annotated[Session, operator]
    ) -> LabelChange:
        """Give an episode another outcome, in a new snapshot; the old label stays in the log's history."""
        outcome, identity = Outcome(body.outcome), episode_identity(robot_id, episode_id)
        try:
            change = await console.reads.run(session.name, console.episodes.relabel, identity, outcome, session.name)
        except EpisodeRejected as error:
            raise HTTPException(409, str(error)) from error
        console.audit.append(session.name, "relabel", episode=identity, outcome=body.outcome)
        return LabelChange(episode_id=change.episode_id, snapshot=change.version)

    @app.get("/api/episodes/{robot_id}/{episode_id}/track", responses=REFUSALS)
    async def track(robot_id: str, episode_id: str, session: Annotated[Session, viewer]) -> Response:
        """Return poses and value distributions of each step (see lwd.console.episode_track)."""
        found = await console.reads.run(session.name, console.episodes.find, episode_identity(robot_id, episode_id))
        data = await console.heavy.output(
            session.name, "lwd.console.episode_track", str(config.run.path), found.entry.key
        )
        return Response(data, media_type="application/octet-stream")

    @app.get("/api/episodes/{robot_id}/{episode_id}/frames/{camera}/{step}", responses=REFUSALS)
    async def frame(
        robot_id: str, episode_id: str, camera: str, step: int, session: Annotated[Session, viewer]
    ) -> Response:
        """Return one recorded camera frame."""
        data = await console.reads.run(
            session.name, console.episodes.frame, episode_identity(robot_id, episode_id), camera, step
        )
        return Response(
            data,
            media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg",
            # Episodes never change: a film that is played again is not asked for again.
            headers={"Cache-Control": "private, max-age=3600, immutable"},
        )

    @app.get("/api/scene", responses=REFUSALS)
    async def scene(session: Annotated[Session, viewer]) -> Response:
        """Return the simulated scene's shapes and meshes (see lwd.robots.sim.drawing)."""
        data = await console.heavy.output(session.name, "lwd.console.scene")
        return Response(data, media_type="application/octet-stream", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/api/audit", dependencies=[admin], responses=REFUSALS)
    async def audit(limit: Annotated[int, Query(ge=1, le=10_000)] = 200) -> list[dict[str, Any]]:
        """Return the audit log's last lines, newest first."""
        return await asyncio.to_thread(console.audit.tail, limit)

    @app.websocket("/api/live")
    async def live(socket: WebSocket) -> None:
        """The fleet's state and poses out, commands in."""
        if socket.headers.get("origin") not in config.origins or socket.headers.get("host") not in hosts:
            await socket.close(4403)
            return
        if config.proxy is not None and config.proxy.is_forged(socket):
            await console.refusals.note(peer_of(socket), "login refused", config.proxy.forged(socket))
            await socket.close(4403)
            return
        session = None
        with contextlib.suppress(HTTPException):
            session = await console.logins.session_of(socket)
        offered = set(socket.scope.get("subprotocols", ()))
        # Also if nobody is logged in: browsers are not told the code with which a handshake is refused.
        await socket.accept(subprotocol=LIVE_PROTOCOL if LIVE_PROTOCOL in offered else None)
        if session is None or not any(same_secret(each, f"csrf.{session.csrf}") for each in offered):
            await socket.close(4401)
            return
        mark_known(socket.scope, session.name)
        secret = socket.cookies.get(console.logins.cookie)
        with console.logins.sessions.tab(secret) as may_open:
            if not may_open:
                await socket.close(4429)
                return
            client = LiveClient(
                socket,
                session,
                console.link,
                console.view,
                console.audit,
                console.refusals,
                is_valid=lambda: console.logins.sessions.find(secret) is session,
                stop=console.stop,
            )
            await client.run()

    static = Path(str(importlib.resources.files("lwd.console"))) / "static"
    app.mount("/assets", StaticFiles(directory=static / "assets"), name="assets")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(static / "index.html", headers={"Cache-Control": "no-cache"})

    # The last one added is the first one asked.
    app.add_middleware(BodyLimit)
    app.add_middleware(Turns, who=console.logins.who)
    return app
