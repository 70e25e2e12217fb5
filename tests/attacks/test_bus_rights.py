"""Two robot hosts and all the others on a real NATS server, each with the rights that `lwd bus rights` prints."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from nats.aio.client import Client

from lwd.errors import ConfigError, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.bus_connection import connect
from lwd.fleet.control_calls import ControlCalls
from lwd.fleet.desk import Desk
from lwd.fleet.messages import (
    CONTROL_SUBJECT,
    POLICY_SUBJECT,
    WATCH_SUBJECT,
    ControlCommand,
    ControlState,
    EpisodeAnnouncement,
    PolicyPointer,
    WatchRequest,
    command_subject,
    control_subject,
    episode_subject,
    host_subject,
    poses_subject,
    view_subject,
)
from lwd.fleet.rights import Rights, rights_of
from lwd.fleet.stop_bus import keep_stops, read_stops
from lwd.fleet.stop_messages import STOP_SUBJECT, StopOrder, StopState, stopped_subject

from .. import driven_fleet
from ..nats_servers import HOST, Certificates, ExternalServer, Realm

POINTER = PolicyPointer(
    version=4, key="policies/000000000004.safetensors", sha256="0" * 64, update=9, snapshot=2, published_at_s=1.0
)
HOST_A, HOST_B = "host", "host-b"
ROBOT_A, ROBOT_B = "robot-0", "robot.b"
RIGHTS: dict[str, Rights] = {
    HOST_A: rights_of("robot", HOST_A, robots=[ROBOT_A]),
    HOST_B: rights_of("robot", HOST_B, robots=[ROBOT_B]),
    "coordinator": rights_of("coordinator", "coordinator"),
    "learner": rights_of("learner", "learner"),
    "console": rights_of("console", "console"),
    "dora": rights_of("operator", "dora", robots=[ROBOT_A]),
}


class Guarded:
    """A server with one user for each part of the fleet."""

    def __init__(self, server: ExternalServer, urls: Callable[[str], BusConfig]) -> None:
        self.server, self.bus_of = server, urls


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    users = "\n".join(
        f'{{ user: "{name}", password: "secret", {rights.as_config()} }}' for name, rights in RIGHTS.items()
    )
    with ExternalServer(tmp_path_factory.mktemp("nats"), f"authorization {{ users: [ {users} ] }}") as server:
        yield Guarded(server, lambda name: BusConfig(urls=(f"nats://{name}:secret@{HOST}:{server.port}",)))


def announcement(robot: str, number: int) -> EpisodeAnnouncement:
    name = f"{robot}-{number}"
    return EpisodeAnnouncement(
        episode_id=name, robot_id=robot, key=f"episodes/{robot}/{name}.arrow", sha256="0" * 64, bytes=10,
        uploaded_at_s=1.0,
    )  # fmt: skip


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def running(fleet: driven_fleet.DrivenFleet) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def announce_commit_and_point(bus_of: Callable[[str], BusConfig]) -> None:
    names = (HOST_B, "coordinator", "learner")
    host, coordinator, learner = [await Bus.connect(bus_of(name), name=name) for name in names]
    assert await coordinator.fetch_announcements(1, 0.1) == []
    pushed: list[PolicyPointer] = []

    async def push(pointer: PolicyPointer) -> None:
        pushed.append(pointer)

    await host.subscribe(POLICY_SUBJECT, PolicyPointer, push)
    await learner.set_policy_pointer(POINTER)
    await until(lambda: pushed == [POINTER])
    assert await host.get_policy_pointer() == POINTER
    await host.announce(announcement(ROBOT_B, 1))
    (received,) = await coordinator.fetch_announcements(10, 5.0)
    assert received.announcement.robot_id == ROBOT_B
    await coordinator.acknowledge(received)
    for bus in (host, coordinator, learner):
        await bus.close()


async def watch_take_and_drive(bus_of: Callable[[str], BusConfig], fleet: driven_fleet.DrivenFleet) -> None:
    console = await Bus.connect(bus_of("console"), name="console")
    # A stop that is kept for hosts that are away, and taken back.
    order = StopState().order(StopOrder(stop_id="0" * 32, by="ada"))
    kept = await keep_stops(console, order)
    assert await read_stops(console) == kept
    await keep_stops(console, kept.released(["0" * 32], "ada", "", 0.0))
    await console.publish(STOP_SUBJECT, await read_stops(console))
    states: dict[str, ControlState] = {}

    async def note(state: ControlState) -> None:
        states[state.robot_id] = state

    await console.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, note)
    await until(lambda: fleet.steps_of(ROBOT_A) > 0)
    await console.publish(WATCH_SUBJECT, WatchRequest(console_id="console", robots=(ROBOT_A,), hz=5))
    await until(lambda: ROBOT_A in states)
    calls = ControlCalls(lambda: console)
    ask = ControlCommand(robot_id=ROBOT_A, verb="take", operator_id="ada", client_id="tab")
    taken = await calls.ask(ask)
    assert (taken.phase, taken.operator_id) == ("paused", "ada")
    await calls.ask(ask.model_copy(update={"verb": "resume", "lease": taken.lease, "seen_s": taken.robot_time_s}))
    before = fleet.steps_of(ROBOT_A)
    for sequence in range(1, 40):
        drive = {"verb": "drive", "lease": taken.lease, "sequence": sequence, "action": (0.25, 0.0)}
        drive["seen_s"] = max(taken.robot_time_s, states[ROBOT_A].robot_time_s)
        await calls.send(ask.model_copy(update=drive))
        await asyncio.sleep(0.02)
    assert fleet.steps_of(ROBOT_A) > before
    await calls.ask(ask.model_copy(update={"verb": "release", "lease": taken.lease}))
    await console.close()


def test_a_whole_fleet_works_with_the_rights_that_the_verb_prints(tmp_path, guarded):
    async def work() -> None:
        await announce_commit_and_point(guarded.bus_of)
        await watch_take_and_drive(guarded.bus_of, fleet)
        async with Desk.open(guarded.bus_of("dora"), "dora") as desk:
            taken = await desk.ask(ROBOT_A, "take")
            await desk.ask(ROBOT_A, "release", taken.lease)

    server = type("Place", (), {"url": guarded.bus_of(HOST_A).urls[0]})()
    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        with running(fleet):
            asyncio.run(work())
        assert fleet.finish()


def test_jwts_of_these_rights_do_as_well(tmp_path):
    realm = Realm()
    certificates = Certificates.make(tmp_path / "certificates")
    with ExternalServer(tmp_path / "nats", f"{certificates.config()}\n{realm.config}") as server:
        files = {
            name: realm.credentials(tmp_path / f"{name}.creds", **rights.as_claims()) for name, rights in RIGHTS.items()
        }

        def bus_of(name: str) -> BusConfig:
            return BusConfig(urls=(f"tls://{HOST}:{server.port}",), ca=certificates.ca, credentials=files[name])

        async def answer() -> None:
            host, console = [await Bus.connect(bus_of(name), name=name) for name in (HOST_A, "console")]

            async def asked(command: ControlCommand, inbox: str) -> None:
                state = ControlState(
                    robot_id=ROBOT_A, host_id=HOST_A, phase="paused", lease=1, request_id=command.request_id
                )
                await host.publish(inbox, state)

            await host.subscribe_calls(command_subject(ROBOT_A), ControlCommand, asked, admits=lambda _: True)
            await host._client.flush()
            command = ControlCommand(robot_id=ROBOT_A, verb="take", operator_id="ada", client_id="tab")
            assert (await ControlCalls(lambda: console).ask(command)).lease == 1
            await host.close()
            await console.close()

        asyncio.run(announce_commit_and_point(bus_of))
        asyncio.run(answer())


async def refused(client: Client, violations: list[str], what: str) -> None:
    """The server says what it does not permit, after a moment."""
    await client.flush()
    await until(lambda: any(what.lower() in violation.lower() for violation in violations))


def test_a_robot_speaks_for_no_other_and_changes_nothing_of_the_stream_and_the_bucket(guarded):
    """What is forbidden here is what the robot could do with the rights that were documented before."""
    others = [
        *(subject(ROBOT_B) for subject in (episode_subject, control_subject, poses_subject, view_subject)),
        command_subject(ROBOT_A), command_subject(ROBOT_B), host_subject(HOST_B), POLICY_SUBJECT, WATCH_SUBJECT,
        "lwd.snapshot", "lwd.heartbeat.learner", "lwd.heartbeat.coordinator", "$KV.lwd.policy",
        STOP_SUBJECT, stopped_subject(HOST_B), "$KV.lwd.stop",
        f"_INBOX_{HOST_B}.x", "_INBOX_console.x", "_INBOX_coordinator.x",
        "$JS.ACK.LWD_EPISODES.coordinator.1.1.1.1.0",
    ]  # fmt: skip
    calls = [
        f"$JS.API.{call}"
        for stream in ("LWD_EPISODES", "KV_lwd")
        for call in (
            *(f"STREAM.{verb}.{stream}" for verb in ("DELETE", "PURGE", "UPDATE", "CREATE", "MSG.DELETE", "SNAPSHOT")),
            f"CONSUMER.CREATE.{stream}.mine",
            f"CONSUMER.DURABLE.CREATE.{stream}.mine",
            f"CONSUMER.DELETE.{stream}.coordinator",
            f"CONSUMER.MSG.NEXT.{stream}.coordinator",
        )
    ]

    async def attack() -> None:
        learner = await Bus.connect(guarded.bus_of("learner"), name="learner")
        await learner.set_policy_pointer(POINTER)
        client = await connect(guarded.bus_of(HOST_A), "thief", 20.0)
        violations: list[str] = []

        async def note(error: Exception) -> None:
            violations.append(str(error))

        client._error_cb = note
        for subject in (*others, *calls):
            await client.publish(subject, b"{}", reply="_INBOX_host.answer")
            await refused(client, violations, f'publish to "{subject}"')
        for subject in ("lwd.>", command_subject(ROBOT_B), f"{CONTROL_SUBJECT}.*", "_INBOX_console.>", "_INBOX.>", ">"):
            await client.subscribe(subject)
            await refused(client, violations, f'subscription to "{subject}"')
        # Its own is not in the way of anybody.
        await client.publish(control_subject(ROBOT_A), b"{}")
        await client.close()
        assert await learner.get_policy_pointer() == POINTER
        await learner.close()

    asyncio.run(attack())


def test_no_robot_answers_what_another_is_asked(guarded):
    """It knows neither that somebody asks nor on which inbox; a guess is refused by the server."""

    async def attack() -> None:
        console = await Bus.connect(guarded.bus_of("console"), name="console")
        thief = await connect(guarded.bus_of(HOST_A), "thief", 20.0)
        heard: list[object] = []

        async def note(message: object) -> None:
            heard.append(message)

        thief._error_cb = note
        await thief.subscribe(command_subject(ROBOT_B), cb=note)
        await thief.flush()
        await until(lambda: len(heard) == 1)  # the server's refusal
        command = ControlCommand(robot_id=ROBOT_B, verb="take", operator_id="ada", client_id="tab")
        with pytest.raises(ServiceError, match="nobody listens"):
            await ControlCalls(lambda: console).ask(command)
        assert len(heard) == 1
        await thief.close()
        await console.close()

    asyncio.run(attack())


def test_an_answer_goes_to_an_inbox_only(guarded):
    """Else a host would say in its own name what somebody else wants to be said."""

    async def attack() -> None:
        host = await Bus.connect(guarded.bus_of(HOST_A), name=HOST_A)
        console = await connect(guarded.bus_of("console"), "console", 20.0)
        inboxes: list[str] = []

        async def asked(_: ControlCommand, inbox: str) -> None:
            inboxes.append(inbox)

        await host.subscribe_calls(command_subject(ROBOT_A), ControlCommand, asked, admits=lambda _: True)
        await host._client.flush()
        command = ControlCommand(robot_id=ROBOT_A, verb="take", operator_id="ada", client_id="tab")
        for reply in (episode_subject(ROBOT_A), "_INBOX_console.x"):
            await console.publish(command_subject(ROBOT_A), command.model_dump_json().encode(), reply=reply)
        await until(lambda: len(inboxes) == 2)
        assert inboxes == ["", "_INBOX_console.x"]
        await host.close()
        await console.close()

    asyncio.run(attack())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"role": "robot", "user": "a"}, "robots is empty"),
        ({"role": "learner", "user": "a", "robots": ["b"]}, "a learner has none"),
        ({"role": "learner", "user": "a", "host": "b"}, "host is b, but role is learner"),
        ({"role": "robot", "user": "a", "robots": ["b.>"]}, "'b.>' is no name"),
        ({"role": "console", "user": 'x"'}, "is no name"),
    ],
)
def test_wrong_names_get_no_rights(arguments, message):
    with pytest.raises(ConfigError, match=message):
        rights_of(**arguments)
