"""The bus, with a real nats-server."""

import asyncio
import os
import shutil
import signal
import socket

import pytest

from lwd.data.policies import PolicyManifest, policy_key
from lwd.errors import PortInUse, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.learner_link import LearnerLink
from lwd.fleet.messages import (
    LEARNER_SUBJECT,
    POLICY_SUBJECT,
    EpisodeAnnouncement,
    LearnerHeartbeat,
    PolicyPointer,
)
from lwd.fleet.nats_server import HOST, NatsServer, read_url, seed_file, url_file


@pytest.fixture
def server(tmp_path):
    with NatsServer(tmp_path / "nats") as server:
        yield server


def announcement(number: int) -> EpisodeAnnouncement:
    return EpisodeAnnouncement(
        episode_id=f"e{number}",
        robot_id="host.robot-1",
        key=f"episodes/host.robot-1/e{number}.arrow",
        sha256="0" * 64,
        bytes=10,
        uploaded_at_s=1.0,
    )


async def names(bus: Bus, limit: int = 100, timeout_s: float = 0.3) -> list[str]:
    received = await bus.fetch_announcements(limit, timeout_s)
    for item in received:
        await bus.acknowledge(item)
    return [item.announcement.episode_id for item in received]


def test_announcements_arrive_once_also_when_repeated(server):
    async def check() -> None:
        bus = await Bus.connect(server.url, name="test")
        for number in (1, 2, 1, 2, 3):
            await bus.announce(announcement(number))
        assert await names(bus) == ["e1", "e2", "e3"]
        assert await names(bus) == []
        await bus.close()

    asyncio.run(check())


def test_announcements_survive_kill_9_of_the_server(server):
    async def check() -> None:
        bus = await Bus.connect(server.url, name="test")
        await bus.announce(announcement(1))
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        with pytest.raises(ServiceError):
            await bus.announce(announcement(2))
        server.start()
        for _ in range(50):
            await asyncio.sleep(0.1)
            if bus.connected:
                break
        await bus.announce(announcement(3))
        found: list[str] = []
        for _ in range(20):
            try:
                found += await names(bus)
            except ServiceError:
                await asyncio.sleep(0.1)
            if "e3" in found:
                break
        assert [name for name in found if name != "e2"] == ["e1", "e3"]
        await bus.close()

    asyncio.run(check())


def test_a_deleted_stream_is_made_again(server, tmp_path):
    async def check() -> None:
        bus = await Bus.connect(server.url, name="test")
        await bus.announce(announcement(1))
        assert await names(bus) == ["e1"]
        server.close()
        shutil.rmtree(tmp_path / "nats" / "jetstream")
        server.start()
        for _ in range(100):
            try:
                await bus.announce(announcement(2))
                if "e2" in await names(bus):
                    break
            except ServiceError:
                await asyncio.sleep(0.1)
        else:
            pytest.fail("no announcement in 100 tries")
        await bus.close()

    asyncio.run(check())


def test_an_unreadable_message_does_not_block_the_others(server):
    async def check() -> None:
        bus = await Bus.connect(server.url, name="test")
        await bus.announce(announcement(1))
        await bus._jetstream.publish("lwd.episodes.robot-1", b"\x80pickle")
        await bus.announce(announcement(2))
        assert await names(bus) == ["e1", "e2"]
        await bus.close()

    asyncio.run(check())


def test_a_robot_can_announce_no_episode_of_another(server):
    """A false SHA-256 would put the other's episode into the quarantine."""

    async def check() -> None:
        bus = await Bus.connect(server.url, name="test")
        await bus.announce(announcement(1).model_copy(update={"key": "episodes/robot-2/e1.arrow"}))
        await bus._jetstream.publish("lwd.episodes.robot-2", announcement(2).model_dump_json().encode())
        await bus.announce(announcement(3))
        assert await names(bus) == ["e3"]
        await bus.close()

    asyncio.run(check())


def test_the_policy_pointer_is_pushed_and_can_be_asked_for(server):
    pointer = PolicyPointer(version=4, key=policy_key(4), sha256="0" * 64, update=9, snapshot=2, published_at_s=1.0)

    async def check() -> None:
        bus = await Bus.connect(server.url, name="test")
        assert await bus.get_policy_pointer() is None
        pushed: asyncio.Queue[PolicyPointer] = asyncio.Queue()
        await bus.subscribe(POLICY_SUBJECT, PolicyPointer, pushed.put)
        await bus.set_policy_pointer(pointer)
        assert await asyncio.wait_for(pushed.get(), 5) == pointer
        late = await Bus.connect(server.url, name="late")
        assert await late.get_policy_pointer() == pointer
        await late.close()
        await bus.close()

    asyncio.run(check())


def test_the_learners_link_announces_and_beats(server):
    link = LearnerLink(lambda: BusConfig(urls=(server.url,)))
    manifest = PolicyManifest(
        version=0, key=policy_key(0), sha256="0" * 64, bytes=1, update=0, snapshot=0, published_at_s=1.0
    )
    try:

        async def check() -> None:
            bus = await Bus.connect(server.url, name="test")
            beats: asyncio.Queue[LearnerHeartbeat] = asyncio.Queue()
            await bus.subscribe(LEARNER_SUBJECT, LearnerHeartbeat, beats.put)
            await asyncio.sleep(0.1)
            link.beat(stage="online", update=1, snapshot=2, policy_version=3, env_steps=4, env_steps_allowed=None)
            assert (await asyncio.wait_for(beats.get(), 5)).env_steps == 4
            assert link.announce_policy(manifest)
            assert (await bus.get_policy_pointer()).version == 0
            await bus.close()

        asyncio.run(check())
        server.close()
        assert not link.announce_policy(manifest.model_copy(update={"version": 1, "key": policy_key(1)}))
    finally:
        link.close()


def test_without_a_server_connecting_fails_with_the_address():
    with pytest.raises(ServiceError, match=r"no NATS server at 127.0.0.1:1 within 0.5 s"):
        asyncio.run(Bus.connect("nats://secret@127.0.0.1:1", name="test", timeout_s=0.5))


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is taken"):
            NatsServer(tmp_path, port=port)


def test_others_without_the_nkey_are_refused(server, tmp_path):
    with pytest.raises(ServiceError):
        asyncio.run(Bus.connect(f"nats://{HOST}:{server.port}", name="test", timeout_s=1.0))
    assert seed_file(tmp_path / "nats").stat().st_mode & 0o077 == 0
    assert read_url(tmp_path / "nats") == server.url


def test_a_run_keeps_its_nkey_unless_others_could_read_it(tmp_path):
    seed = seed_file(tmp_path)
    NatsServer(tmp_path)
    first = seed.read_bytes()
    assert first.decode() not in (tmp_path / "nats.conf").read_text() + url_file(tmp_path).read_text()
    NatsServer(tmp_path)
    assert seed.read_bytes() == first
    seed.chmod(0o644)
    NatsServer(tmp_path)
    assert seed.read_bytes() != first
    assert seed.stat().st_mode & 0o077 == 0
    seed.write_bytes(b"rubbish")
    NatsServer(tmp_path)
    assert seed.read_bytes() not in (first, b"rubbish")


def test_a_run_without_a_bus_says_how_to_start_one(tmp_path):
    with pytest.raises(ServiceError, match="lwd up"):
        read_url(tmp_path)
