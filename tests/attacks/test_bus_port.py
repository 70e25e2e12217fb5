"""Somebody takes the embedded NATS server's port while the server is down."""

import asyncio
import base64
import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest

from lwd.errors import BusRefused, PortInUse, ServiceError
from lwd.fleet import loopback
from lwd.fleet.bus import Bus
from lwd.fleet.nats_server import HOST, NatsServer, seed_file
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig

_THIEF = """
import encodings.idna, json, os, pwd, socket, sys
port, nonce, user = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if user:
    os.setuid(pwd.getpwnam(user).pw_uid)
listening = socket.create_server(("127.0.0.1", port))
print("listening", flush=True)
info = {"server_id": "x", "version": "2.12.0", "headers": True, "max_payload": 1048576, "proto": 1}
if nonce:
    info |= {"auth_required": True, "nonce": nonce}
while True:
    connection, _ = listening.accept()
    connection.sendall(b"INFO " + json.dumps(info).encode() + b"\\r\\n")
    connection.settimeout(1.0)
    try:
        while data := connection.recv(65536):
            print("got", data, flush=True)
    except OSError:
        pass
    connection.close()
"""


@contextlib.contextmanager
def thief(port: int, heard: Path, *, nonce: str = "", user: str = "") -> Iterator[int]:
    """A process that greets as a NATS server does, and writes down what it is told."""
    with heard.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", _THIEF, str(port), nonce, user], stdout=out)
        try:
            deadline_s = time.monotonic() + 30
            while b"listening" not in heard.read_bytes():
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            yield process.pid
        finally:
            process.kill()
            process.wait()


async def greet(url: str) -> None:
    with contextlib.suppress(ServiceError):
        bus = await Bus.connect(url, name="robot", timeout_s=2.0)
        await bus.close()


def test_bus_port_in_other_hands_is_told_nothing_that_can_be_used_again(tmp_path):
    """One of our own processes: it learns a signature of what it made up itself, and no secret."""
    server = NatsServer(tmp_path / "nats")
    with server:
        port = server.port
    told = []
    for nonce in ("nonce-number-one", "nonce-number-two"):
        heard = tmp_path / nonce
        with thief(port, heard, nonce=nonce):
            asyncio.run(greet(server.url))
        line = heard.read_text().partition("CONNECT ")[2].partition("\\r\\n")[0]
        told.append(json.loads(line))
    seed = seed_file(tmp_path / "nats").read_bytes()
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    assert [each["nkey"] for each in told] == [public, public]
    assert not {"auth_token", "user", "pass", "jwt"} & set(told[0])
    assert seed.decode() not in json.dumps(told)
    assert told[0]["sig"] != told[1]["sig"]
    assert base64.b64decode(told[0]["sig"])


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("nonce", ["", "please-sign-this"])
def test_bus_port_of_another_user_gets_no_word(tmp_path, nonce):
    """It wants no login, or passes the challenge on to the real server: before we say anything, we look whose it is."""
    server = NatsServer(tmp_path / "nats")
    with server:
        port = server.port
    heard = tmp_path / "heard"
    with thief(port, heard, nonce=nonce, user="nobody"):
        with pytest.raises(BusRefused, match=rf"port {port} was taken by process \d+ \(python.*\) of user nobody"):
            asyncio.run(Bus.connect(server.url, name="robot", timeout_s=5.0))
        time.sleep(0.1)
    assert b"got" not in heard.read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="becomes another user")
def test_bus_port_that_is_taken_during_an_outage_gets_no_word_of_who_reconnects(tmp_path):
    server = NatsServer(tmp_path / "nats")
    server.start()
    heard = tmp_path / "heard"

    async def work() -> None:
        bus = await Bus.connect(server.url, name="robot")
        assert server.process is not None
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        with thief(server.port, heard, user="nobody"):
            await asyncio.sleep(2.0)
            assert not bus.connected
        server.start()
        async with asyncio.timeout(30):
            while not bus.connected:
                await asyncio.sleep(0.05)
        await bus.close()

    try:
        asyncio.run(work())
    finally:
        server.close()
    assert b"got" not in heard.read_bytes()


def test_bus_port_that_is_taken_is_named_and_the_server_is_restarted_ever_more_slowly(tmp_path):
    """It was started again six times a second, without a reason."""
    code = "import time; time.sleep(120)"
    spec = ProcessSpec(name="a", command=(sys.executable, "-c", code))
    events: list[tuple[float, str]] = []
    supervisor = Supervisor(
        SupervisorConfig(run=tmp_path, groups=((spec,),)),
        on_event=lambda event: events.append((time.monotonic(), event)),
    )
    seen: dict[str, object] = {}

    def attack() -> None:
        try:
            pids = tmp_path / "processes.json"
            deadline_s = time.monotonic() + 60
            while not pids.exists() or "nats" not in json.loads(pids.read_text()):
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            assert supervisor._nats is not None
            port = supervisor._nats.port
            os.kill(json.loads(pids.read_text())["nats"], signal.SIGKILL)
            listening = None
            while listening is None:
                with contextlib.suppress(OSError):
                    listening = socket.create_server((HOST, port))
            with listening:
                time.sleep(4.0)
                seen["tries"] = [event for _, event in events if "does not run" in event]
            while not events[-1][1].startswith("nats-server runs again"):
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            seen["again"] = True
        finally:
            supervisor.stop()

    attacker = threading.Thread(target=attack)
    attacker.start()
    supervisor.run()
    attacker.join()
    assert seen["again"]
    tries = seen["tries"]
    assert isinstance(tries, list)
    assert 2 <= len(tries) <= 12
    assert "the end of its log" in tries[0]
    who = f"process {os.getpid()} " if Path("/proc/net/tcp").exists() else ""
    assert f"is taken by {who}" in tries[-1]
    assert "starting it again in" in tries[-1]


def test_bus_port_that_is_taken_at_the_start_is_named_with_its_holder(tmp_path):
    server = NatsServer(tmp_path / "nats")
    with socket.create_server((HOST, server.port)), pytest.raises(PortInUse, match=rf"port {server.port} .* is taken"):
        server.start()
    if Path("/proc/net/tcp").exists():
        with socket.create_server((HOST, 0)) as taken:
            words = loopback.holder(taken.getsockname()[1])
        assert words.startswith(f"process {os.getpid()} (")
        assert words.endswith(f"of user {pwd.getpwuid(os.geteuid()).pw_name}")
