"""A take-over is answered while strangers and a viewer do their worst, all of it at once."""

import json
import os
import resource
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from lwd.console.accounts import Accounts, Role
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.process import spawn, stop

from ..served_console import console_process
from ..unit.data.episodes import WITH_CAMERA, episode
from . import raw_http
from .conftest import Measured

pytestmark = pytest.mark.attacks
PASSWORD = "correct horse battery"
SECONDS = 30.0
BOUND_S = 0.2


class Operator:
    """Takes robots and hands them back, and notes how long each answer took."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0

    def ask(self, robot_id: str, verb: str, lease: int = 0) -> tuple[float, dict[str, object]]:
        self._number += 1
        command = {"kind": "command", "robot_id": robot_id, "verb": verb, "lease": lease}
        begun_s = time.monotonic()
        self._socket.send(json.dumps({**command, "request_id": str(self._number)}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message["kind"] == "answer" and message["request_id"] == str(self._number):
                return time.monotonic() - begun_s, message

    def takes(self, seconds: float) -> np.ndarray:
        """Return how many seconds each take took."""
        taken_s = []
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            robot_id = f"robot-{self._number % 4}"
            after_s, answer = self.ask(robot_id, "take")
            assert answer["refused"] == "", answer
            taken_s.append(after_s)
            assert self.ask(robot_id, "release", int(str(answer["lease"])))[1]["refused"] == ""
            # A person would take longer; the console allows ten commands a second.
            time.sleep(0.25)
        return np.array(taken_s)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def recorded(run: Path) -> list[str]:
    """Put episodes into the run's log; return their names (ROBOT/ID)."""
    store = DirectoryStore(run / "store")
    made = [episode(number, steps=6, cameras=True) for number in range(10)]
    for each in made:
        store.create(episode_key(each.info.robot_id, each.info.episode_id), write_episode(each))
    coordinator = Coordinator(store, EpisodeLimits(embodiment=WITH_CAMERA))
    coordinator.process(coordinator.unprocessed())
    return [each.info.identity for each in made]


def test_console_take_is_answered_under_all_abuses_at_once(tmp_path, measured: Measured):
    run = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    accounts = Accounts(run / "console" / "accounts.json")
    for role in (Role.VIEWER, Role.OPERATOR):
        accounts.put(role.label, role, PASSWORD)
    episode_ids = recorded(run)
    with NatsServer(run / "nats"), console_process(run) as (url, pid):
        host = spawn([sys.executable, "-m", "tests.attacks.driven_host", str(run)], log=tmp_path / "host.log")
        command = [sys.executable, "-m", "tests.attacks.console_load", url, PASSWORD, str(SECONDS + 15), *episode_ids]
        load = None
        try:
            begun = httpx.post(f"{url}/api/login", json={"name": "operator", "password": PASSWORD}, timeout=60)
            cookie = "; ".join(f"{name}={value}" for name, value in begun.cookies.items())
            offered = ["lwd.live", f"csrf.{begun.json()['csrf']}"]
            live = f"{url.replace('http', 'ws')}/api/live"
            with connect(live, additional_headers={"cookie": cookie}, origin=url, subprotocols=offered) as socket:
                operator = Operator(socket)
                end_s = time.monotonic() + 60
                while operator.ask("robot-3", "take")[1]["refused"]:
                    assert time.monotonic() < end_s, (tmp_path / "host.log").read_text()
                    time.sleep(0.5)
                time.sleep(1)
                quiet_s = operator.takes(5)
                log = (run / "console.log").stat().st_size
                load = spawn(command, log=tmp_path / "load.log")
                time.sleep(8)
                used_s = cpu_s(pid)
                taken_s = operator.takes(SECONDS)
                used_s = cpu_s(pid) - used_s
            load.wait(timeout=90)
            answers = json.loads((tmp_path / "load.log").read_text())
            print(json.dumps(answers, indent=1))
        finally:
            for process in (host, load):
                if process is not None:
                    stop(process, patience_s=60)
        memory = raw_http.resident_bytes(pid)
        grown = (run / "console.log").stat().st_size - log
    p50_s, p99_s = np.percentile(taken_s, [50, 99])
    measured(
        f"{len(taken_s)} takes under all abuses",
        f"median {1000 * p50_s:.0f} ms, 99 % {1000 * p99_s:.0f} ms (quiet: {1000 * np.percentile(quiet_s, 99):.0f} ms; "
        f"load {os.getloadavg()[0]:.1f}), {used_s / SECONDS:.2f} of a core, {memory / 1e6:.0f} MB, log + {grown} B",
        f"99 % {1000 * BOUND_S:.0f} ms",
    )
    # The abuse was what it should be, and was answered with refusals.
    assert {"replay: 429", "json: 413", "take: too many commands: wait "} <= set(answers)
    assert answers["half: closed"] > 1024
    assert answers["login: 401"] <= 5
    lines = (run / "console" / "audit.jsonl").read_text().splitlines()
    assert sum('"viewer"' in line and '"take"' in line for line in lines) < 20
    assert grown < 64_000
    assert p99_s <= BOUND_S
