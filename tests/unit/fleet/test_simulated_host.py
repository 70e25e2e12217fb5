"""The process entry with the real simulator, the real small VLA and the scripted operator."""

import signal
import threading
import time

import numpy as np
import pytest

from lwd.data.episode_file import read_episode
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.nats_server import NatsServer
from lwd.models.checkpoint import policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.sim import make_robot, task_named
from lwd.types import Controller, Outcome


@pytest.fixture
def keep_signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_simulated_episodes_pass_validation_and_the_operator_helps(tmp_path, keep_signals):
    robot = make_robot()
    embodiment = robot.embodiment
    robot.close()
    task = task_named("press_button")
    # Known embeddings, so that no sentence encoder is loaded; an untrained policy gets stuck and needs help.
    known = {text: np.ones(EMBEDDING_SIZE, np.float32) for text in task.instructions}
    size = embodiment.state_size
    statistics = StateStatistics(mean=(0.0,) * size, std=(1.0,) * size)
    policy = SmallVLA(embodiment, VLAConfig(expert_width=32), statistics, InstructionEncoder(known))
    store = DirectoryStore(tmp_path / "store")
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    done = threading.Event()

    def coordinate() -> None:
        coordinator = Coordinator(store, EpisodeLimits(embodiment=embodiment))
        while not done.is_set():
            coordinator.process(coordinator.unprocessed())
            time.sleep(0.1)

    thread = threading.Thread(target=coordinate)
    thread.start()
    try:
        with NatsServer(tmp_path / "nats"):
            run_robot_host(
                RobotHostConfig(
                    run=tmp_path,
                    host_id="host",
                    robots=(RobotSpec(robot_id="a"), RobotSpec(robot_id="b", world="shifted")),
                    tasks=("press_button",),
                    operator_patience=5,
                    operator_allowed_fraction=1.0,
                    max_episodes=2,
                )
            )
    finally:
        done.set()
        thread.join()
    reader = LogReader(store)
    reader.poll()
    entries = [item.entry for item in reader.snapshot.episodes.values()]
    assert list(store.list("quarantine")) == []
    assert {(entry.robot_id, entry.world) for entry in entries} == {("a", "nominal"), ("b", "shifted")}
    assert {entry.outcome for entry in entries} <= {Outcome.SUCCESS, Outcome.TIME_LIMIT}
    for entry in entries:
        assert entry.interventions >= 1
        episode = read_episode(store.get(entry.key))
        assert episode.controllers_T[0] == Controller.POLICY
        assert int((episode.controllers_T == Controller.HUMAN).sum()) == entry.human_steps > 0
