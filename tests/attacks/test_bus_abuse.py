"""What somebody on the bus, or a viewer at the console, says of robots that are not theirs."""

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

from lwd.console.accounts import Accounts
from lwd.console.app import AppConfig, create_app
from lwd.console.background import Background
from lwd.console.fleet_view import MAX_HOSTS, MAX_ROBOTS, MAX_ROBOTS_OF_HOST, OFFLINE_S, FleetView
from lwd.fleet import messages
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.messages import (
    CONTROL_SUBJECT,
    POSES_SUBJECT,
    WATCH_SUBJECT,
    ControlState,
    HostHeartbeat,
    Message,
    RobotStatus,
    WatchRequest,
    control_subject,
    host_subject,
    poses_subject,
    subject_token,
)
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.poses import PoseFrame, encode_frame, robot_of_frame
from lwd.fleet.subjects import RULES
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.protocol import BodyPoses

from .. import driven_fleet
from ..served_console import open_link

ORIGIN = "http://testserver"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


def state(robot: str, host: str = "host-a", **content: Any) -> ControlState:
    return ControlState(robot_id=robot, host_id=host, phase="autonomous", lease=0, **content)


def beat(host: str, *robots: str) -> HostHeartbeat:
    listed = tuple(
        RobotStatus(
            robot_id=robot, task="t", instruction="i", episode_id="e", step=1, policy_version=1, human=False,
            sub_step_scores=(),
        )
        for robot in robots
    )  # fmt: skip
    return HostHeartbeat(
        host_id=host, time_s=0, state="running", env_steps=0, episodes=0, spooled=0, policy_version=1, robots=listed
    )


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_names_that_differ_have_subjects_that_differ():
    names = ["a.b", "a_b", "a-b", "a.b.c", "a_b.c", "a.b_c"]
    assert len(set(map(subject_token, names))) == len(names)
    assert all("." not in subject_token(name) for name in names)


def test_every_message_that_names_somebody_has_a_subject_of_its_own():
    kinds = [
        kind
        for _, kind in inspect.getmembers(messages, inspect.isclass)
        if issubclass(kind, Message) and kind not in (Message, messages.AxisStatus, messages.RobotStatus)
    ]
    assert set(RULES) >= set(kinds)


def test_what_is_said_of_another_robot_on_ones_own_subject_is_dropped(server, caplog):
    """With NATS permissions a subject says who speaks; so its content must not say that it is somebody else."""

    async def attack() -> None:
        bus = await Bus.connect(server.url, name="test")
        heard: list[str] = []

        async def note(message: BaseModel) -> None:
            heard.append(getattr(message, "robot_id", getattr(message, "host_id", "")))

        async def frame(data: bytes) -> None:
            heard.append(f"frame of {robot_of_frame(data)}")

        await bus.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, note)
        await bus.subscribe(host_subject("*"), HostHeartbeat, note)
        await bus.subscribe_bytes(
            f"{POSES_SUBJECT}.*", frame, subject_of=lambda data: poses_subject(robot_of_frame(data))
        )
        picture = encode_frame(
            PoseFrame(robot_id="b", step=1, time_s=0, poses=BodyPoses(poses_N7=np.zeros((1, 7), np.float32)))
        )
        await bus.publish(control_subject("a"), state("b", fault=""))
        await bus.publish(control_subject("a_b"), state("a.b"))
        await bus.publish(host_subject("host-a"), beat("host-b"))
        await bus.publish_bytes(poses_subject("a"), picture)
        await bus.publish_bytes(poses_subject("a"), b"\x01")
        assert heard == []
        await bus.publish(control_subject("a.b"), state("a.b"))
        await bus.publish(host_subject("host-b"), beat("host-b"))
        await bus.publish_bytes(poses_subject("b"), picture)
        await until(lambda: len(heard) == 3)
        assert sorted(heard) == ["a.b", "frame of b", "host-b"]
        await bus.close()

    asyncio.run(attack())
    assert "by its content it belongs on lwd.control.state.b" in caplog.text


def test_garbage_is_dropped_unread_and_costs_few_lines(server, caplog):
    async def attack() -> None:
        bus = await Bus.connect(server.url, name="test")
        heard: list[WatchRequest] = []

        async def note(request: WatchRequest) -> None:
            heard.append(request)

        await bus.subscribe(WATCH_SUBJECT, WatchRequest, note)
        large = WatchRequest(console_id="eve", robots=tuple(f"{n:04}{'x' * 120}" for n in range(4096)), hz=1)
        await bus.publish(WATCH_SUBJECT, large)
        for number in range(3000):
            await bus.publish_bytes(WATCH_SUBJECT, b"\x80pickle" * (number % 50))
        await asyncio.sleep(0.5)
        await asyncio.sleep(3.2)  # until the bucket is full again
        await bus.publish(WATCH_SUBJECT, WatchRequest(console_id="ada", robots=(), hz=1))
        await until(lambda: bool(heard))
        assert [request.console_id for request in heard] == ["ada"]
        await bus.close()

    asyncio.run(attack())
    assert 1 <= len(caplog.records) <= 6
    assert "at most 131072 are read" in caplog.text


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def row(view: FleetView, robot: str) -> dict[str, Any]:
    return next(each for each in view.snapshot()["robots"] if each["robot_id"] == robot)


def test_another_hosts_robot_is_not_hidden_and_the_conflict_is_shown():
    clock = Clock()
    view = FleetView(clock=clock)
    view.on_host(beat("host-a", "robot-3"))
    assert view.on_control(state("robot-3", fault="gripper hot"))
    for _ in range(3):
        clock.now_s += 0.5
        view.on_host(beat("host-a", "robot-3"))
        view.on_host(beat("host-b", "robot-3", "robot-4"))
        view.on_host(beat("host-b"))
        view.on_host(beat("host-b", "robot-3"))
        assert not view.on_control(state("robot-3", host="host-b"))
        found = row(view, "robot-3")
        assert (found["host_id"], found["state"]) == ("host-a", "fault")
        assert found["fault"] == "several hosts claim this robot: host-a, host-b; gripper hot"
        assert found["task"] == "t"
    # It gives up: what was wrong with the robot is still there.
    for _ in range(10):
        clock.now_s += 0.5
        view.on_host(beat("host-a", "robot-3"))
    assert row(view, "robot-3")["fault"] == "gripper hot"
    # A host that is replaced hands its robots on.
    clock.now_s += OFFLINE_S + 1
    view.on_host(beat("host-c", "robot-3"))
    found = row(view, "robot-3")
    assert (found["host_id"], found["fault"]) == ("host-c", "")


def test_who_speaks_as_the_robot_counts_more_than_who_lists_it():
    view = FleetView()
    view.on_host(beat("thief", "robot-3"))
    assert view.on_control(state("robot-3", host="host-a"))
    found = row(view, "robot-3")
    assert (found["host_id"], found["fault"]) == ("host-a", "several hosts claim this robot: host-a, thief")


def test_ghost_robots_and_hosts_are_bounded_and_make_room_when_silent(caplog):
    clock = Clock()
    view = FleetView(clock=clock)
    view.on_host(beat("honest", "robot-0"))
    view.on_host(beat("ghost", *(f"ghost-{number}" for number in range(3000))))
    assert len(view.robot_ids) == 1 + MAX_ROBOTS_OF_HOST
    for number in range(MAX_HOSTS + 100):
        view.on_host(beat(f"ghost-{number}", *(f"ghost-{number}-{each}" for each in range(5))))
    assert len(view.robot_ids) == MAX_ROBOTS
    assert len(view.snapshot()["hosts"]) == MAX_HOSTS
    assert "robot-0" in view.robot_ids
    assert len(caplog.messages) <= 40
    clock.now_s += OFFLINE_S + 1
    view.on_host(beat("new", "robot-1"))
    assert row(view, "robot-1")["host_id"] == "new"


@contextmanager
def console_of(path: Any, server: NatsServer) -> Iterator[TestClient]:
    config = AppConfig(
        run=RunDirectory(path),
        bus=lambda: BusConfig(urls=(server.url,)),
        origins=frozenset({ORIGIN}),
        accounts=Accounts(path / "none.json"),
    )
    with TestClient(create_app(config), base_url=ORIGIN) as client:
        open_link(client, path)
        yield client


def live(client: TestClient) -> Any:
    """A browser's live connection."""
    offered = ["lwd.live", f"csrf.{client.headers['X-CSRF-Token']}"]
    return client.websocket_connect("/api/live", subprotocols=offered, headers={"Origin": ORIGIN, "Host": "testserver"})


@pytest.fixture
def fleet(tmp_path, server) -> Iterator[driven_fleet.DrivenFleet]:
    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            yield fleet
        finally:
            stop.set()
            thread.join()


def frame_of(socket: Any, robot: str, timeout_s: float = 15.0) -> None:
    """Read until a pose frame comes."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        assert time.monotonic() < deadline_s, "no pose frame comes"
        message = socket.receive()
        assert message["type"] != "websocket.close", message
        if (data := message.get("bytes")) is not None:
            assert robot_of_frame(data[4:]) == robot
            return


def read_for_ever(socket: Any) -> None:
    while True:
        socket.receive_json()


def test_two_viewers_who_watch_4096_names_each_take_the_fleet_from_nobody(tmp_path, server, fleet):
    with console_of(tmp_path, server) as client:
        with live(client) as first, live(client) as second, live(client) as honest:
            for number, socket in enumerate((first, second)):
                names = [f"{number}-{each}" for each in range(4096)]
                socket.send_json({"kind": "watch", "robots": names, "hz": 10})
            time.sleep(1.5)
            while "robot-0" not in {each["robot_id"] for each in client.get("/api/fleet").json()["robots"]}:
                time.sleep(0.05)
            honest.send_json({"kind": "watch", "robots": ["robot-0"], "hz": 10})
            frame_of(honest, "robot-0")
        assert client.get("/api/fleet").json()["bus"]


def test_wrong_messages_end_their_own_connection_and_no_other(tmp_path, server, fleet):
    with console_of(tmp_path, server) as client, live(client) as honest:
        with live(client) as eve:
            eve.send_bytes(b"\x00binary")
            for _ in range(200):
                eve.send_text("{" * 100)
            with pytest.raises(WebSocketDisconnect):
                read_for_ever(eve)
        honest.send_json({"kind": "watch", "robots": ["robot-0"], "hz": 10})
        frame_of(honest, "robot-0")


def test_a_part_that_dies_ends_the_process_and_is_named():
    async def live() -> str:
        dead = asyncio.Event()
        background = Background(dead.set)

        async def fail() -> None:
            raise OSError("the disk is full")

        async def last() -> None:
            await asyncio.sleep(60)

        background.start("the link to the fleet", fail())
        background.start("another", last())
        async with asyncio.timeout(10):
            await dead.wait()
        await background.close()
        return background.failure

    assert asyncio.run(live()) == "the link to the fleet has ended (OSError: the disk is full)"


def test_a_part_that_dies_ends_a_real_process():
    code = (
        "import asyncio\n"
        "from lwd.console.background import Background\n"
        "async def fail(): raise ValueError('no')\n"
        "async def main():\n"
        "    Background().start('the link', fail())\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == -signal.SIGTERM
    assert "the link has ended (ValueError: no)" in done.stderr
