"""The console's interface against a real host, bus, store and log: who may do what, and what a browser gets."""

import asyncio
import hashlib
import io
import json
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from starlette.websockets import WebSocketDisconnect

from lwd.console.accounts import Accounts, Role
from lwd.console.app import AppConfig, create_app
from lwd.console.episode_track import episode_track
from lwd.data.log import LogReader
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.desk import Desk
from lwd.fleet.embodiment import embodiment_json
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.poses import decode_frame
from lwd.fleet.shift import attend
from lwd.operators.protocol import OBSERVE, Command, Intent, RobotView
from lwd.recipes.run_directory import RunDirectory

from ... import driven_fleet, point_mass
from ...nats_servers import free_port
from ...served_console import open_link, opened_by_link

ORIGIN = "http://testserver"
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def accounts(tmp_path_factory) -> Path:
    """Hashing takes its time: once for all tests."""
    path = tmp_path_factory.mktemp("accounts") / "accounts.json"
    made = Accounts(path)
    for role in Role:
        made.put(role.label, role, PASSWORD)
    return path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, server) -> Iterator[driven_fleet.DrivenFleet]:
    """Two robots that never get anywhere by themselves, at work."""
    run = tmp_path_factory.mktemp("run")
    with driven_fleet.driven_fleet(run, server, gain=0.0, robots=2) as fleet:
        fleet.path = run
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            yield fleet
        finally:
            stop.set()
            thread.join()


@contextmanager
def console(run: Path, server: NatsServer, accounts: Path | None = None) -> Iterator[TestClient]:
    config = AppConfig(
        run=RunDirectory(run),
        bus=lambda: BusConfig(urls=(server.url,)),
        origins=frozenset({ORIGIN}),
        accounts=Accounts(accounts or run / "none.json"),
    )
    with TestClient(create_app(config), base_url=ORIGIN) as client:
        yield client


@pytest.fixture
def open_console(fleet, server) -> Iterator[TestClient]:
    """On loopback, without accounts."""
    with console(fleet.path, server) as client:
        open_link(client, fleet.path)
        yield client


@pytest.fixture
def guarded(fleet, server, accounts) -> Iterator[TestClient]:
    with console(fleet.path, server, accounts) as client:
        yield client


def log_in(client: TestClient, name: str) -> dict[str, str]:
    """Return the headers that requests which change something need."""
    answer = client.post("/api/login", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    client.headers["X-CSRF-Token"] = answer.json()["csrf"]
    return {"X-CSRF-Token": answer.json()["csrf"]}


def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found


class Browser:
    """One tab."""

    def __init__(self, client: TestClient) -> None:
        offered = ["lwd.live", f"csrf.{client.headers.get('X-CSRF-Token', '')}"]
        self._context = client.websocket_connect("/api/live", subprotocols=offered, headers={"origin": ORIGIN})
        self.fleet: dict[str, Any] = {}
        self.frames: list[bytes] = []
        self.clocks: dict[str, float] = {}

    def __enter__(self) -> "Browser":
        self.socket = self._context.__enter__()
        try:
            self.hello = self.socket.receive_json()
        except WebSocketDisconnect:
            self._context.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)

    def next(self) -> dict[str, Any]:
        """Return the next message; pose messages are kept and acknowledged."""
        message = self.socket.receive()
        if message.get("bytes") is not None:
            self.frames.append(message["bytes"])
            self.socket.send_json({"kind": "ack"})
            return {"kind": "poses"}
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"])
        content = json.loads(message["text"])
        if content["kind"] == "fleet":
            self.fleet = content
        elif content["kind"] == "clocks":
            self.clocks |= content["robots"]
        return content

    def seen_s(self, robot_id: str, verb: str) -> float:
        """Return the robot's clock, read on until it is new where the verb moves the robot."""
        while verb in ("resume", "drive", "release") and self.clocks.get(robot_id, 0.0) < time.monotonic() - 0.2:
            self.next()
        return self.clocks.get(robot_id, 0.0)

    def closed_with(self) -> int:
        """Read on until the console closes the connection; return its code."""
        try:
            while True:
                self.next()
        except WebSocketDisconnect as error:
            return error.code

    def ask(self, robot_id: str, verb: str, lease: int = 0) -> dict[str, Any]:
        command = {"kind": "command", "robot_id": robot_id, "verb": verb, "lease": lease, "request_id": verb}
        self.socket.send_json({**command, "seen_s": self.seen_s(robot_id, verb)})
        while True:
            message = self.next()
            if message["kind"] == "answer" and message["request_id"] == verb:
                if message["refused"] == "the message bus is not there yet":  # the console has only just begun
                    time.sleep(0.05)
                    return self.ask(robot_id, verb, lease)
                return message

    def drive(self, robot_id: str, lease: int, sequence: int) -> None:
        command = {"kind": "command", "robot_id": robot_id, "verb": "drive", "lease": lease}
        command["seen_s"] = self.seen_s(robot_id, "drive")
        self.socket.send_json({**command, "sequence": sequence, "action": [0.1, 0.0]})

    def end(self, robot_id: str, verb: str, lease: int, fleet: driven_fleet.DrivenFleet) -> None:
        """Label the episode and wait until it is over."""
        assert self.ask(robot_id, verb, lease)["refused"] == ""
        until(lambda: fleet.episode_of(robot_id) == "")

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Look at the first robot until something is so."""
        for _ in range(400):
            self.next()
            for robot in self.fleet.get("robots", ()):
                if robot["robot_id"] == "robot-0" and condition(robot):
                    return robot
        raise AssertionError(f"never so: {self.fleet}")


def test_a_browser_watches_takes_over_drives_and_hands_back(open_console, fleet):
    with Browser(open_console) as ada, Browser(open_console) as bob:
        ada.socket.send_json({"kind": "watch", "robots": ["robot-0"], "hz": 20})
        assert ada.until(lambda robot: robot["state"] == "help")["help_reason"] == "no progress for 30 steps"
        until(lambda: ada.next()["kind"] == "poses")
        (length,) = struct.unpack_from("<I", ada.frames[0])
        assert decode_frame(ada.frames[0][4 : 4 + length]).robot_id == "robot-0"
        taken = ada.ask("robot-0", "take")
        assert (taken["phase"], taken["refused"]) == ("paused", "")
        assert bob.ask("robot-0", "take")["refused"] == "local controls this robot: ask them to release it"
        assert ada.ask("robot-0", "resume", taken["lease"])["phase"] == "human"
        before, started_s = fleet.steps_of("robot-0"), time.monotonic()
        for sequence in range(1, 15):
            ada.drive("robot-0", taken["lease"], sequence)
            time.sleep(0.03)
        # In real time, 20 steps a second.
        assert 4 <= fleet.steps_of("robot-0") - before <= 20 * (time.monotonic() - started_s) + 2
        robot = ada.until(lambda robot: robot["state"] == "paused")
        assert (robot["reason"], robot["operator_id"]) == ("no command for 200 ms", "local")
        assert robot["client_id"] == ada.hello["client_id"] != bob.hello["client_id"]
        assert ada.ask("robot-0", "release", taken["lease"])["phase"] == "autonomous"
        assert bob.ask("robot-0", "take")["refused"] == ""
    # Bob's tab is gone: the robot holds, and anybody may take it.
    until(lambda: fleet.remotes["robot-0"].view().lease == 0)
    assert fleet.remotes["robot-0"].view().phase == "paused"
    with Browser(open_console) as carol:
        taken = carol.ask("robot-0", "take")
        assert carol.ask("robot-0", "release", taken["lease"])["refused"] == ""
    lines = [(line["what"], line.get("refused", "")) for line in open_console.get("/api/audit").json()]
    assert ("lost", "") in lines
    assert ("take", "local controls this robot: ask them to release it") in lines
    assert ("release", "") in lines


def test_a_browser_that_does_not_acknowledge_gets_no_more_poses_and_stops_nobody(open_console, fleet):
    with Browser(open_console) as ada:
        ada.socket.send_json({"kind": "watch", "robots": ["robot-0"], "hz": 50})
        got = 0
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            got += ada.socket.receive().get("bytes") is not None  # read, but never acknowledged
        assert got == 2
        before = fleet.steps_of("robot-0")
        until(lambda: fleet.steps_of("robot-0") > before + 50)


def test_messages_that_are_no_commands_are_named_and_the_browser_stays(open_console):
    with Browser(open_console) as ada:
        for text in (
            "{",
            "[]",
            '{"kind": "fly"}',
            '{"kind": "watch", "robots": ["../x"], "hz": 1}',
            '{"kind": "watch", "robots": [], "hz": 1e9}',
            '{"kind":"ack","more":1}',
        ):
            ada.socket.send_text(text)
            while (message := ada.next())["kind"] != "error":
                pass
            assert message["message"]
        assert "did not answer" in ada.ask("nobody", "take")["refused"]


def test_roles_and_tokens_decide(guarded):
    assert guarded.get("/api/session").json() == {"name": "", "role": "", "csrf": "", "login": "password"}
    for path in ("fleet", "learning", "episodes", "episodes/r/x", "episodes/r/x/track", "scene", "audit"):
        assert guarded.get(f"/api/{path}").status_code == 401
    with pytest.raises(WebSocketDisconnect) as refused, Browser(guarded):
        pass
    assert refused.value.code == 4401
    assert guarded.post("/api/login", json={"name": "viewer", "password": "wrong password"}).status_code == 401
    headers = log_in(guarded, "viewer")
    cookie = guarded.cookies.jar.__iter__().__next__()
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    assert guarded.get("/api/fleet").status_code == 200
    assert guarded.get("/api/audit").status_code == 403
    assert guarded.get("/api/export").status_code == 403
    with Browser(guarded) as tab:
        assert tab.hello["role"] == "viewer"
        assert tab.ask("robot-1", "take")["refused"].startswith("a viewer only looks")
        assert guarded.post("/api/logout", headers={"X-CSRF-Token": ""}).status_code == 403
        assert guarded.post("/api/logout", headers={"X-CSRF-Token": "guess"}).status_code == 403
        assert guarded.post("/api/logout", headers=headers).status_code == 200
        assert tab.closed_with() == 4401
    log_in(guarded, "admin")
    lines = guarded.get("/api/audit").json()
    assert [line["what"] for line in lines[:5]] == ["login", "logout", "take", "login", "login refused"]
    assert lines[2]["refused"].startswith("a viewer only looks")


def test_other_origins_and_names_are_refused(open_console):
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {}):
        connection = open_console.websocket_connect("/api/live", headers=headers)
        with pytest.raises(WebSocketDisconnect) as refused, connection:
            pass
        assert refused.value.code == 4403
    assert open_console.get("/api/session", headers={"host": "evil.example"}).status_code == 421
    csrf = open_console.headers["X-CSRF-Token"]
    evil = {"origin": "http://evil.example", "X-CSRF-Token": csrf}
    assert open_console.post("/api/logout", headers=evil).status_code == 403
    assert open_console.post("/api/logout", headers={**evil, "origin": ORIGIN}).status_code == 200


def test_the_page_comes_with_a_policy_that_runs_only_our_own_code(open_console):
    page = open_console.get("/")
    assert page.status_code == 200
    assert '<script type="module"' in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for asset in ("console.js", "index.css"):
        assert open_console.get(f"/assets/{asset}").status_code == 200
        assert f"/assets/{asset}" in page.text


def tar_content(response: httpx.Response) -> dict[str, bytes]:
    assert response.status_code == 200, response.text
    assert "attachment" in response.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def test_episodes_are_listed_filtered_and_opened(fleet, open_console, monkeypatch):
    monkeypatch.setattr("lwd.operators.takeover.UNDO_S", 0.2)
    with Browser(open_console) as ada:
        until(lambda: fleet.steps_of("robot-1") > 0)
        taken = ada.ask("robot-1", "take")
        ada.end("robot-1", "success", taken["lease"], fleet)
        for sequence in range(1, 200):
            ada.ask("robot-1", "resume", taken["lease"])
            ada.drive("robot-1", taken["lease"], sequence)
            if fleet.steps_of("robot-1") > 0:
                break
        ada.end("robot-1", "failure", taken["lease"], fleet)
        assert ada.ask("robot-1", "release", taken["lease"])["refused"] == ""
    assert fleet.finish()
    reader = LogReader(fleet.store)
    reader.poll()
    page = open_console.get("/api/episodes").json()
    assert page["episodes"] == page["matching"] == len(reader) > 0
    page = open_console.get("/api/episodes", params={"robot": "robot-1", "outcome": "success"}).json()
    (row,) = page["rows"]
    assert (row["robot_id"], row["outcome"], row["human_steps"]) == ("robot-1", "success", 0)
    for outcome, helped, matching in [
        ("success", False, 1),
        ("success", True, 0),
        ("failure", False, 0),
        ("failure", True, 1),
    ]:
        conditions = {"robot": "robot-1", "outcome": outcome, "helped": helped}
        assert open_console.get("/api/episodes", params=conditions).json()["matching"] == matching, conditions
    assert open_console.get("/api/episodes", params={"snapshot": 0}).json()["rows"] == []
    assert open_console.get("/api/episodes", params={"snapshot": 999}).status_code == 404
    detail = open_console.get(f"/api/episodes/robot-1/{row['episode_id']}").json()
    assert len(detail["controllers"]) == len(detail["actions"]) == row["steps"]
    assert open_console.get(f"/api/episodes/robot-0/{row['episode_id']}").status_code == 404
    RunDirectory(fleet.path).embodiment_path.write_bytes(embodiment_json(point_mass.EMBODIMENT))
    everything = tar_content(open_console.get("/api/export"))
    assert len(everything) == 2 + len(reader)
    assert json.loads(everything["embodiment.json"])["name"] == "point-mass"
    chosen = tar_content(open_console.get("/api/export", params={"robot": "robot-1", "outcome": "success"}))
    (line,) = chosen["episodes.jsonl"].splitlines()
    entry = json.loads(line)
    assert entry["episode_id"] == row["episode_id"]
    assert (
        hashlib.sha256(chosen[f"robot-1/{row['episode_id']}.arrow"]).hexdigest() == entry["sha256"] == detail["sha256"]
    )
    assert open_console.get("/api/export", params={"task": "nothing"}).status_code == 404
    noted = open_console.get("/api/audit").json()[0]
    assert (noted["what"], noted["episodes"]) == ("export", 1)
    assert noted["conditions"] == {"robot": "robot-1", "outcome": "success"}
    csrf = {"X-CSRF-Token": open_console.headers["X-CSRF-Token"]}
    path = f"/api/episodes/robot-1/{row['episode_id']}/label"
    assert open_console.post(path, json={"outcome": "failure"}, headers={"X-CSRF-Token": ""}).status_code == 403
    assert open_console.post(path, json={"outcome": "perfect"}, headers=csrf).status_code == 422
    changed = open_console.post(path, json={"outcome": "failure"}, headers=csrf).json()
    assert open_console.get(f"/api/episodes/robot-1/{changed['episode_id']}").json()["outcome"] == "failure"
    assert open_console.post(path, json={"outcome": "failure"}, headers=csrf).status_code == 404
    assert open_console.get("/api/audit").json()[0]["what"] == "relabel"
    learning = open_console.get("/api/learning").json()
    assert learning["episodes"] == len(reader)
    assert [task["task"] for task in learning["tasks"]] == ["far"]
    data = episode_track(RunDirectory(fleet.path), detail["key"])
    (length,) = struct.unpack_from("<I", data)
    assert json.loads(data[4 : 4 + length])["notes"] == [
        "embodiment point-mass is not simulated: there is nothing to replay it in",
        "no checkpoint of this run has a value network yet",
    ]


@pytest.fixture
def interface(fleet, server):
    """The console as it is served, over TCP."""
    port = free_port()
    origins = frozenset({f"http://127.0.0.1:{port}"})
    config = AppConfig(
        run=RunDirectory(fleet.path),
        bus=lambda: BusConfig(urls=(server.url,)),
        origins=origins,
        accounts=Accounts(fleet.path / "none.json"),
    )
    served = uvicorn.Server(uvicorn.Config(create_app(config), port=port, log_level="error"))
    thread = threading.Thread(target=served.run)
    thread.start()
    try:
        until(lambda: served.started)
        url = f"http://127.0.0.1:{port}"
        with opened_by_link(fleet.path, url) as browser:
            cookie, csrf = browser.cookies["lwd_session"], browser.headers["X-CSRF-Token"]
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        schema.config.update(headers={"cookie": f"lwd_session={cookie}", "X-CSRF-Token": csrf})
        yield schema
        # What was asked at random has stopped all robots, too, which other tests drive.
        headers = {"cookie": f"lwd_session={cookie}", "X-CSRF-Token": csrf, "origin": url}
        active = httpx.get(f"{url}/api/stop", headers=headers).json()["active"]
        if stops := [stop["stop_id"] for stop in active]:
            release = {"stop_ids": stops, "reason": "the test is over"}
            answer = httpx.post(f"{url}/api/stop/release", json=release, headers=headers)
            assert answer.status_code == 200, answer.text
    finally:
        served.should_exit = True
        thread.join()


def test_the_interface_keeps_to_its_description(interface):
    """Whatever is asked, the answer is one that the OpenAPI description names."""
    # The heavy paths start a process each, and have tests of their own; a logout would end the session of all.
    operations = [result.ok() for result in interface.exclude(path_regex="/(track|scene|logout)$").get_all_operations()]
    assert len(operations) >= 7
    for operation in operations:

        @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keeps(case):
            case.validate_response(case.call())

        keeps()


def test_an_operator_at_a_desk_is_in_the_audit_log_and_holds_the_robot_for_all(tmp_path, fleet, server):
    """`lwd operator` needs no console; one that runs notes what its robots tell."""

    class Device:
        wish = Command(intent=Intent.TAKE_OVER, action=np.array([0.1, 0.0], np.float32))

        def begin(self, view: RobotView, seed: int) -> None: ...

        def poll(self, view: RobotView) -> Command:
            return self.wish

    async def sit(device: Device) -> None:
        async with Desk.open(BusConfig(urls=(server.url,)), "dora") as desk:
            await attend(desk, "robot-1", device, asyncio.Event())

    def noted() -> list[str]:
        return [line["what"] for line in client.get("/api/audit").json() if line["who"] == "dora"]

    device = Device()
    sitting = threading.Thread(target=asyncio.run, args=(sit(device),))
    # A log of its own: every console notes what it hears.
    with console(tmp_path, server) as client:
        open_link(client, tmp_path)
        with Browser(client) as ada:
            sitting.start()
            until(lambda: fleet.remotes["robot-1"].view().phase == "human")
            assert ada.ask("robot-1", "take")["refused"] == "dora controls this robot: ask them to release it"
            device.wish = OBSERVE
            sitting.join()
            until(lambda: len(noted()) >= 2)
            assert noted() == ["release", "take"]
