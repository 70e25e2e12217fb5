"""`lwd robot` with robots that are not our scene: their episodes are committed like all others."""

import threading

import pytest

from lwd.cli.main import dispatch
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.nats_server import NatsServer
from lwd.models.checkpoint import policy_bytes
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Source


@pytest.fixture
def committing(tmp_path):
    """A run of Meta-World with a policy, a bus, and somebody who commits what arrives."""
    run = RunDirectory(tmp_path / "run")
    words = ["data", "metaworld", "--run", str(run.path), "--tasks", "reach-v3"]
    assert dispatch([*words, "--demonstrations", "2", "--rollouts", "1"]) == 0
    embodiment = run.embodiment()
    size = embodiment.state_size
    config = VLAConfig(horizon=10, token_width=8, context_size=16, expert_width=32, expert_depth=2)
    policy = SmallVLA(embodiment, config, StateStatistics(mean=(0.0,) * size, std=(1.0,) * size))
    PolicyPublisher(run.store()).publish(policy_bytes(policy), update=0, snapshot=1)
    over = threading.Event()

    def commit() -> None:
        coordinator = Coordinator(run.store(), EpisodeLimits(embodiment=embodiment))
        while not over.wait(0.1):
            coordinator.process(coordinator.unprocessed())

    thread = threading.Thread(target=commit)
    with NatsServer(run.path / "nats"):
        thread.start()
        yield run
        over.set()
        thread.join()


def test_metaworld_robots_fill_the_replay(committing):
    words = ["robot", "--run", str(committing.path), "--gym", "metaworld-mt10", "--tasks", "reach-v3"]
    assert dispatch([*words, "--robots", "m-0", "m-1", "--max-episodes", "3", "--operator-allowed-fraction", "1"]) == 0
    reader = LogReader(committing.store())
    reader.poll()
    entries = [item.entry for item in reader.snapshot.episodes.values()]
    fleet = [entry for entry in entries if entry.source is Source.FLEET]
    assert len(entries) - len(fleet) == 3
    assert len(fleet) == 3
    assert {entry.task for entry in fleet} == {"reach-v3"}
    # An untrained policy does nothing: the expert, asked after 40 steps, finishes what can be finished.
    assert {entry.outcome for entry in fleet} == {"success"}
    assert all(entry.human_steps > 0 for entry in fleet)
