"""Who joins after 1,000 versions gets what those have who were there from the start."""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lwd.data.arena import ReplayArena
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import INDEX_EVERY, LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.reader import ReplayReader
from lwd.data.sampling import BatchSampler, Stratum
from lwd.data.store import DirectoryStore, ObjectStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.host_network import HostNetwork
from lwd.fleet.judging import Candidate
from lwd.fleet.learner_link import LearnerLink
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool
from lwd.types import Episode

from ..unit.data.episodes import EMBODIMENT
from .writers import tiny_episode

VERSIONS = 1_030
REVOKED_AT = 500
PATIENCE_S = 120.0


class RecordingStore(DirectoryStore):
    """Remembers what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[str] = []

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """A store with a long log, and a learner that has followed it."""

    root: Path
    store: ObjectStore
    coordinator: Coordinator
    early: ReplayReader


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    memory = Path("/dev/shm")
    # In memory where that is possible: thousands of fsyncs would take most of the time.
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        root = Path(directory)
        store = DirectoryStore(root)
        coordinator = Coordinator(store, EpisodeLimits())
        early = replay(store)
        for version in range(1, VERSIONS + 1):
            if version == REVOKED_AT:
                coordinator.revoke([recorded(8).info.identity])
            else:
                commit(store, coordinator, version)
            if version % 50 == 0:
                early.advance()
        early.advance()
        yield Fleet(root=root, store=store, coordinator=coordinator, early=early)
        early.close()


def replay(store: ObjectStore) -> ReplayReader:
    return ReplayReader(store, ReplayArena(EMBODIMENT, horizon=3, gamma=0.99, embed=lambda text: np.ones(4)))


def recorded(number: int) -> Episode:
    return tiny_episode(f"robot-{number % 7}", number)


def commit(store: ObjectStore, coordinator: Coordinator, number: int) -> None:
    episode = recorded(number)
    key = episode_key(episode.info.robot_id, episode.info.episode_id)
    store.create(key, write_episode(episode))
    assert len(coordinator.process([Candidate(key=key, uploaded_at_s=time.time())]).committed) == 1
    if (index := coordinator.due_index()) is not None:
        index.write()


def tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield all tensors of a batch."""
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def test_a_late_learner_gets_the_same_snapshot_and_the_same_batches(fleet):
    version = fleet.early.version
    # The log goes on while it joins.
    commit(fleet.store, fleet.coordinator, VERSIONS + 1)
    late = replay(fleet.store)
    late.advance(up_to=version)
    assert late.log.snapshot == fleet.early.log.snapshot
    assert late.arena.num_episodes == fleet.early.arena.num_episodes == len(late.log)
    batches = [BatchSampler(reader.arena, [Stratum()], batch_size=64, seed=3) for reader in (fleet.early, late)]
    for update in range(20):
        early_batch, late_batch = (list(tensors(sampler.batch(update))) for sampler in batches)
        assert len(early_batch) == len(late_batch) > 5
        assert all(torch.equal(one, other) for one, other in zip(early_batch, late_batch, strict=True))
    late.close()


def test_a_late_reader_starts_at_the_index(fleet):
    store = RecordingStore(fleet.root)
    late = LogReader(store)
    indexed = late.load_index()
    assert indexed == VERSIONS // INDEX_EVERY * INDEX_EVERY
    late.poll(up_to=VERSIONS)
    # The index, its own entry (to compare it with the log, and once more with the first news), and those behind it.
    assert len(store.read) == 1 + 2 + VERSIONS - indexed
    full = LogReader(fleet.store)
    full.poll(up_to=VERSIONS)
    assert late.snapshot == full.snapshot
    assert list(late.snapshot.episodes) == list(full.snapshot.episodes)


def test_a_late_robot_gets_the_newest_policy_and_is_heard(fleet, tmp_path):
    publisher = PolicyPublisher(fleet.store)
    with NatsServer(tmp_path / "nats") as server:
        bus = BusConfig(urls=(server.url,))
        link = LearnerLink(lambda: bus)
        for update in range(11):
            assert link.announce_policy(publisher.publish(b"policy %d" % update, update=update, snapshot=update))
        spool = Spool(tmp_path / "spool")
        spool.claim("late")
        policies = PolicyFollower(fleet.store, lambda data: data, max_loaded=2)
        network = HostNetwork(
            host_id="late-host",
            bus=lambda: bus,
            store=fleet.store,
            shipper=Shipper(fleet.store, spool, {"late"}),
            policies=policies,
            metrics=MetricsFile(tmp_path, "late-host"),
            heartbeat_s=0.5,
        )
        try:
            wait_until(lambda: policies.version == publisher.newest)
            assert policies.newest.policy == b"policy 10"
            link.announce_policy(publisher.publish(b"news", update=11, snapshot=11))
            wait_until(lambda: policies.newest.policy == b"news")
            network.submit(tiny_episode("late", 0))
            wait_until(lambda: [item.robot_id for item in spool.pending()] == ["late"])
            wait_until(lambda: len(fleet.coordinator.process(fleet.coordinator.unprocessed()).committed) == 1)
            assert network.drain(PATIENCE_S, committed=True)
        finally:
            network.close()
            spool.close()
            link.close()


def wait_until(condition) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
