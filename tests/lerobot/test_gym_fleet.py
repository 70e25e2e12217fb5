"""`lwd robot` with robots that are not our scene: their episodes are committed like all others."""

import asyncio
import io
import threading

import numpy as np
import pytest
from PIL import Image

from lwd.cli.main import dispatch
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.validation import EpisodeLimits
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.messages import POSES_SUBJECT, WATCH_SUBJECT, WatchRequest
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.poses import robot_of_frame
from lwd.models.checkpoint import policy_bytes
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Source


@pytest.fixture
def committing(tmp_path, request):
    """A run of Meta-World with a policy, a bus, and somebody who commits what arrives."""
    run = RunDirectory(tmp_path / "run")
    words = ["data", "metaworld", "--run", str(run.path), "--tasks", "reach-v3", *getattr(request, "param", ())]
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


@pytest.mark.parametrize("committing", [("--pixels",)], indirect=True)
def test_a_watcher_sees_what_robots_with_cameras_see(committing):
    frames: list[bytes] = []

    async def take(data: bytes) -> None:
        frames.append(data)

    async def watch() -> None:
        bus = await Bus.connect(BusConfig(urls=((committing.path / "nats" / "url").read_text(),)), name="watcher")
        await bus.subscribe_bytes(f"{POSES_SUBJECT}.*", take)
        for _ in range(600):
            await bus.publish(WATCH_SUBJECT, WatchRequest(console_id="watcher", robots=("m-0",), hz=5))
            await asyncio.sleep(0.1)
            if len(frames) >= 3:
                break
        await bus.close()

    watcher = threading.Thread(target=asyncio.run, args=(watch(),))
    watcher.start()
    words = ["robot", "--run", str(committing.path), "--gym", "metaworld-mt10-pixels", "--tasks", "reach-v3"]
    try:
        assert dispatch([*words, "--robots", "m-0", "--max-episodes", "1", "--operator-allowed-fraction", "1"]) == 0
    finally:
        watcher.join()
    assert len(frames) >= 3
    assert {robot_of_frame(frame) for frame in frames} == {"m-0"}
    picture = np.asarray(Image.open(io.BytesIO(frames[-1][frames[-1].index(b"\xff\xd8") :])))
    assert picture.shape == (240, 240, 3)
    assert picture.std() > 10
