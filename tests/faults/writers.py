"""Simulated robots that write tiny episodes through the real edge path: spool, shipper, bus, log.

A writer is one process with several robots. Its episodes are numbered, and each has the same bytes whenever it is
made: a writer that was killed goes on with the first episode that its journal does not have, so that in the end
exactly the expected ids exist.
"""

import signal
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lwd.data.store import open_store
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_network import MAX_UNSPOOLED, HostNetwork, HostStatus
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.types import Episode

from ..unit.data.episodes import episode
from .journal import JournalingSpool, read_journal

_DRAIN_S = 600.0


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """One writer process."""

    run: str
    """Spool and metrics go there."""
    journal: str
    """A file; on another disk than the spool where that gets full."""
    name: str
    store_url: str
    nats_url: str
    robots: int
    episodes: int
    """Per robot; after the last one is committed the process ends."""
    period_s: float
    """Between two episodes of the process."""


def robot_ids(name: str, robots: int) -> list[str]:
    """Return the ids of a writer's robots."""
    return [f"{name}.robot-{number}" for number in range(robots)]


def tiny_episode(robot_id: str, number: int) -> Episode:
    """Return a valid episode whose bytes depend on robot and number only; ids of a robot sort by number."""
    seed = zlib.crc32(f"{robot_id}/{number}".encode())
    return episode(seed, steps=4, robot_id=robot_id, episode_id=f"{robot_id}-{number:06d}")


def run_writer(config: WriterConfig) -> None:
    """Write until all episodes are committed, or until SIGTERM."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    run = Path(config.run)
    journal = Path(config.journal)
    robots = robot_ids(config.name, config.robots)
    written = set(read_journal(journal))
    spool = JournalingSpool(run / "spool", journal)
    for robot_id in robots:
        spool.claim(robot_id)
    store = open_store(config.store_url)
    network = HostNetwork(
        host_id=config.name,
        bus=lambda: BusConfig(urls=(config.nats_url,)),
        store=store,
        shipper=Shipper(store, spool, set(robots)),
        policies=PolicyFollower(store, lambda data: data, max_loaded=1),
        metrics=MetricsFile(run, config.name),
        heartbeat_s=1.0,
    )
    try:
        due_s = time.monotonic()
        for done, item in enumerate(_missing(robots, config.episodes, written)):
            due_s += config.period_s
            while time.monotonic() < due_s or network.unspooled >= MAX_UNSPOOLED:
                network.check()
                time.sleep(min(0.05, max(0.001, due_s - time.monotonic())))
            if stopped:
                return
            network.submit(item)
            network.status = HostStatus(state="running", episodes=done + 1)
        if not network.drain(_DRAIN_S, committed=True):
            raise SystemExit(f"{network.waiting} episodes are not committed after {_DRAIN_S:g} s")
    finally:
        network.close()
        spool.close()


def _missing(robots: list[str], episodes: int, written: set[str]) -> Iterator[Episode]:
    """Yield what the journal does not have, robots taking turns."""
    for number in range(episodes):
        for robot_id in robots:
            item = tiny_episode(robot_id, number)
            if f"episodes/{robot_id}/{item.info.episode_id}.arrow" not in written:
                yield item
