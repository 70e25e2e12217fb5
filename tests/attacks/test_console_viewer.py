"""What a viewer may do to a console at full speed: commands that are refused, replays."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from lwd.console.accounts import Accounts, Role
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import Coordinator

from ..served_console import console_process
from ..unit.data.episodes import WITH_CAMERA, episode
from .conftest import Measured

PASSWORD = "correct horse battery"


class Viewer:
    def __init__(self, run: Path, url: str, pid: int, episode_ids: list[str]) -> None:
        self.run, self.url, self.pid, self.episode_ids = run, url, pid, episode_ids
        begun = httpx.post(f"{url}/api/login", json={"name": "viewer", "password": PASSWORD}, timeout=60)
        self.headers = {"cookie": "; ".join(f"{name}={value}" for name, value in begun.cookies.items())}
        self.offered = ["lwd.live", f"csrf.{begun.json()['csrf']}"]

    def audit(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.run / "console" / "audit.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> Iterator[Viewer]:
    run = tmp_path_factory.mktemp("run")
    Accounts(run / "console" / "accounts.json").put("viewer", Role.VIEWER, PASSWORD)
    store = DirectoryStore(run / "store")
    made = [episode(number, steps=6, cameras=True) for number in range(10)]
    for each in made:
        store.create(episode_key(each.info.robot_id, each.info.episode_id), write_episode(each))
    coordinator = Coordinator(store, EpisodeLimits(embodiment=WITH_CAMERA))
    coordinator.process(coordinator.unprocessed())
    with console_process(run) as (url, pid):
        yield Viewer(run, url, pid, [each.info.identity for each in made])


def test_console_refused_takes_at_full_speed_are_few_lines_of_the_audit_log(viewer, measured: Measured):
    live = f"{viewer.url.replace('http', 'ws')}/api/live"
    command = {"kind": "command", "robot_id": "robot-0", "verb": "take", "request_id": "x"}
    refused: Counter[str] = Counter()
    with connect(live, additional_headers=viewer.headers, origin=viewer.url, subprotocols=viewer.offered) as socket:
        begun_s = time.monotonic()
        for _ in range(500):
            socket.send(json.dumps(command))
        while refused.total() < 500:
            message = json.loads(socket.recv(timeout=60))
            if message["kind"] == "answer":
                refused[message["refused"].partition(":")[0]] += 1
        taken_s = time.monotonic() - begun_s
    lines = [line for line in viewer.audit() if line["what"] == "take"]
    measured("500 refused takes", f"{taken_s:.2f} s, {len(lines)} audit lines", "3 audit lines")
    assert set(refused) == {"a viewer only looks", "too many commands"}
    assert 1 <= len(lines) <= 3
    assert all(line["who"] == "viewer" for line in lines)


@pytest.mark.attacks
def test_console_replays_of_one_viewer_are_two_at_a_time_and_of_the_lowest_priority(viewer, measured: Measured):
    nice: set[int] = set()
    most = 0

    async def look(over: asyncio.Event) -> None:
        nonlocal most
        while not over.is_set():
            tasks = Path(f"/proc/{viewer.pid}/task/{viewer.pid}/children").read_text().split()
            replays = [pid for pid in tasks if b"episode_track" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            most = max(most, len(replays))
            nice.update(int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[16]) for pid in replays)
            await asyncio.sleep(0.05)

    async def ask() -> Counter[int]:
        over = asyncio.Event()
        looking = asyncio.create_task(look(over))
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=viewer.url, timeout=200, headers=viewer.headers, limits=limits) as client:
            paths = [f"/api/episodes/{viewer.episode_ids[number % 10]}/track" for number in range(60)]
            answers = await asyncio.gather(*map(client.get, paths))
        over.set()
        await looking
        return Counter(answer.status_code for answer in answers)

    statuses = asyncio.run(ask())
    measured("60 replays at once", f"{statuses[200]} shown, {statuses[429]} refused, {most} process", "1 process")
    assert statuses[200] >= 2
    assert statuses[200] + statuses[429] == 60
    assert statuses[429] >= 40
    assert most == 1
    assert 19 in nice
