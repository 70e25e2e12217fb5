"""Thousands of episodes that nobody announced: live ones are committed as fast as ever beside them."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import LogReader
from lwd.data.store import DirectoryStore
from lwd.fleet.bus import Bus
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.nats_server import NatsServer

from ..unit.data.episodes import episode

ROOT = Path(__file__).parents[2]
BACKLOG_ROBOT, LIVE_ROBOT = "robot-9", "robot-1"
WITHIN_S = 2.0
PATIENCE_S = 300.0


def fill(run: Path, count: int) -> None:
    """Put unannounced episodes of one robot into the store, by its file system: durability is not the subject."""
    directory = run / "store" / "episodes" / BACKLOG_ROBOT
    directory.mkdir(parents=True)
    for number in range(count):
        made = episode(number, steps=4, robot_id=BACKLOG_ROBOT, episode_id=f"b{number:06d}")
        (directory / f"b{number:06d}.arrow").write_bytes(write_episode(made))


async def announce(bus: Bus, store: DirectoryStore, number: int) -> None:
    made = episode(number, steps=4, robot_id=LIVE_ROBOT, episode_id=f"live{number:06d}")
    data, key = write_episode(made), episode_key(LIVE_ROBOT, made.info.episode_id)
    await asyncio.to_thread(store.create, key, data)
    await bus.announce(
        EpisodeAnnouncement(
            episode_id=made.info.episode_id,
            robot_id=LIVE_ROBOT,
            key=key,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            uploaded_at_s=time.time(),
        )
    )


@contextmanager
def coordinator(run: Path, nats_url: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = json.dumps({"run": str(run), "store_url": str(run / "store"), "nats_url": nats_url})
    with (run / "coordinator.log").open("wb") as log:
        command = [sys.executable, "-m", "tests.faults.processes", "coordinator", settings]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(60) == 0, (run / "coordinator.log").read_text()[-3000:]


def wait_for(reader: LogReader, count: int, process: subprocess.Popen[bytes], run: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while len(reader) < count:
        reader.poll()
        log = (run / "coordinator.log").read_text()[-3000:]
        assert process.poll() is None, log
        assert time.monotonic() < deadline_s, f"{len(reader)} of {count} are committed\n{log}"
        time.sleep(0.02)


def test_live_episode_is_committed_before_a_backlog_of_another_robot(tmp_path):
    backlog, live = 300, 10
    fill(tmp_path, backlog)
    store = DirectoryStore(tmp_path / "store")
    with NatsServer(tmp_path / "nats") as server:

        async def before_it_starts() -> None:
            bus = await Bus.connect(server.url, name="test")
            for number in range(live):
                await announce(bus, store, number)
            await bus.close()

        asyncio.run(before_it_starts())
        reader = LogReader(store)
        with coordinator(tmp_path, server.url) as process:
            wait_for(reader, backlog + live, process, tmp_path)
    order = [item.entry.robot_id for item in reader.snapshot.episodes.values()]
    last = len(order) - 1 - order[::-1].index(LIVE_ROBOT)
    assert last < backlog / 2, f"the last live episode was committed as number {last} of {len(order)}"


@pytest.mark.attacks
def test_live_episodes_stay_fast_beside_ten_thousand_unannounced_ones(tmp_path, measured):
    backlog, period_s = 10_000, 0.1
    fill(tmp_path, backlog)
    store = DirectoryStore(tmp_path / "store")
    with NatsServer(tmp_path / "nats") as server:
        reader = LogReader(store)
        with coordinator(tmp_path, server.url) as process:

            async def live() -> int:
                bus = await Bus.connect(server.url, name="test")
                number, watching = 0, LogReader(store)
                while True:
                    await announce(bus, store, number)
                    number += 1
                    await asyncio.sleep(period_s)
                    await asyncio.to_thread(watching.poll)
                    done = sum(item.entry.robot_id == BACKLOG_ROBOT for item in watching.snapshot.episodes.values())
                    assert process.poll() is None
                    if done >= backlog:
                        await bus.close()
                        return number

            begun_s = time.monotonic()
            count = asyncio.run(asyncio.wait_for(live(), PATIENCE_S))
            took_s = time.monotonic() - begun_s
            wait_for(reader, backlog + count, process, tmp_path)
    waits_s = [
        item.committed_at_s - item.entry.uploaded_at_s
        for item in reader.snapshot.episodes.values()
        if item.entry.robot_id == LIVE_ROBOT
    ]
    p99_s = float(np.quantile(waits_s, 0.99))
    measured(
        f"{backlog} unannounced episodes (worked off in {took_s:.0f} s)",
        f"{count} live ones: p50 {np.median(waits_s):.3f} s, p99 {p99_s:.3f} s",
        f"p99 <= {WITHIN_S:g} s",
    )
    assert p99_s <= WITHIN_S
