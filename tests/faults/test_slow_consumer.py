"""A subscriber that does not read is cut off by the bus; nobody else waits for it."""

import asyncio
import base64
import json
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import nkeys
import pytest

from lwd.fleet.bus import Bus
from lwd.fleet.messages import EpisodeAnnouncement, HostHeartbeat, RobotStatus, host_subject
from lwd.fleet.nats_server import NatsServer

ROBOTS = 64
PATIENCE_S = 120.0


@pytest.fixture
def server(tmp_path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats", log=tmp_path / "nats.log") as server:
        yield server


def subscribe_without_reading(url: str) -> socket.socket:
    """Connect as a client that asks for everything and takes nothing."""
    place = urlparse(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((place.hostname, place.port))
    info = client.recv(4096).partition(b"INFO ")[2]
    pair = nkeys.from_seed(bytearray(Path(parse_qs(place.query)["nkey"][0]).read_bytes()))
    signature = base64.b64encode(pair.sign(json.loads(info)["nonce"].encode())).decode()
    login = {"nkey": pair.public_key.decode(), "sig": signature}
    options = json.dumps({**login, "verbose": False, "pedantic": False, "name": "lazy"})
    client.sendall(f"CONNECT {options}\r\nSUB lwd.> 1\r\nPING\r\n".encode())
    return client


def beat(number: int) -> HostHeartbeat:
    """Return a heartbeat of a large host: 15 KB."""
    robot = RobotStatus(
        robot_id="robot", task="t" * 40, instruction="i" * 80, episode_id="e", step=1, policy_version=1, human=False,
        sub_step_scores=(0.5,),
    )  # fmt: skip
    return HostHeartbeat(
        host_id="host", time_s=1.0, state="running", env_steps=number, episodes=0, spooled=0, policy_version=1,
        robots=(robot,) * ROBOTS,
    )  # fmt: skip


def announcement(number: int) -> EpisodeAnnouncement:
    return EpisodeAnnouncement(
        episode_id=f"e{number}", robot_id="r", key=f"episodes/r/e{number}.arrow", sha256="0" * 64, bytes=1,
        uploaded_at_s=1.0,
    )  # fmt: skip


def test_a_subscriber_that_does_not_read_harms_nobody(server, tmp_path):
    log = tmp_path / "nats.log"
    heard: list[int] = []
    announced: list[str] = []
    fetched: list[str] = []
    latencies_s: list[float] = []

    def cut_off() -> bool:
        return "Slow Consumer Detected" in log.read_text()

    async def hear(data: bytes) -> None:
        heard.append(HostHeartbeat.model_validate_json(data).env_steps)

    async def robots(bus: Bus) -> int:
        """Publish heartbeats until the lazy one is cut off; returns their number."""
        number = 0
        deadline_s = time.monotonic() + PATIENCE_S
        while not cut_off():
            assert time.monotonic() < deadline_s, "the bus never cut it off"
            for _ in range(10):
                await bus.publish(host_subject("host"), beat(number))
                number += 1
            started_s = time.monotonic()
            await bus.announce(announcement(len(announced)))
            latencies_s.append(time.monotonic() - started_s)
            announced.append(f"e{len(announced)}")
            await asyncio.sleep(0.02)
        return number

    async def coordinator(bus: Bus) -> None:
        while True:
            for item in await bus.fetch_announcements(100, 0.2):
                await bus.acknowledge(item)
                fetched.append(item.announcement.episode_id)

    async def check() -> None:
        buses = [await Bus.connect(server.url, name=name) for name in ("robots", "coordinator", "dashboard")]
        # Unread bytes: as messages, so many a second would be dropped.
        await buses[2].subscribe_bytes(host_subject("host"), hear)
        # The coordinator makes the stream. (Without a stream, a foreign subscriber of lwd.> takes the place of the
        # server's answer that there is none, and announcing waits for its timeout.)
        assert await buses[1].fetch_announcements(1, 0.1) == []
        lazy = subscribe_without_reading(server.url)
        follower = asyncio.create_task(coordinator(buses[1]))
        published = await robots(buses[0])
        deadline_s = time.monotonic() + PATIENCE_S
        while len(heard) < published or len(fetched) < len(announced):
            assert time.monotonic() < deadline_s, (len(heard), published, len(fetched), len(announced))
            await asyncio.sleep(0.02)
        follower.cancel()
        assert all(bus.connected for bus in buses)
        lazy.close()
        for bus in buses:
            await bus.close()
        assert heard == list(range(published))

    asyncio.run(check())
    assert fetched == announced
    median_s = statistics.median(latencies_s)
    print(f"\n{len(heard)} heartbeats; announcing took {median_s:.3f} s, at most {max(latencies_s):.3f} s")
    assert max(latencies_s) < 5.0
