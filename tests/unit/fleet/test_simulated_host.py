"""The process entry with the real simulator, the real small VLA and the scripted operator."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from lwd.data.episode_file import read_episode
from lwd.data.log import EpisodeEntry, LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.process import spawn, stop
from lwd.models.checkpoint import policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.sim import task_named
from lwd.robots.sim.embodiments import STATE_EMBODIMENT
from lwd.types import Controller, Outcome


@pytest.fixture
def store(tmp_path) -> DirectoryStore:
    """With an untrained policy, which gets stuck and needs help."""
    # Known embeddings, so that no sentence encoder is loaded.
    texts = [text for name in ("press_button", "unlock_and_lock") for text in task_named(name).instructions]
    known = {text: np.ones(EMBEDDING_SIZE, np.float32) for text in texts}
    size = STATE_EMBODIMENT.state_size
    statistics = StateStatistics(mean=(0.0,) * size, std=(1.0,) * size)
    policy = SmallVLA(STATE_EMBODIMENT, VLAConfig(expert_width=32), statistics, InstructionEncoder(known))
    store = DirectoryStore(tmp_path / "store")
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    return store


@contextmanager
def coordinated(store: DirectoryStore, look: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Commit what comes, and look at each round."""
    done = threading.Event()

    def coordinate() -> None:
        coordinator = Coordinator(store, EpisodeLimits(embodiment=STATE_EMBODIMENT))
        while not done.is_set():
            coordinator.process(coordinator.unprocessed())
            look()
            time.sleep(0.1)

    thread = threading.Thread(target=coordinate)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def committed(store: DirectoryStore) -> list[EpisodeEntry]:
    reader = LogReader(store)
    reader.poll()
    return [item.entry for item in reader.snapshot.episodes.values()]


def test_simulated_episodes_pass_validation_and_the_operator_helps(tmp_path, store, keep_signals):
    with coordinated(store), NatsServer(tmp_path / "nats"):
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
    entries = committed(store)
    assert list(store.list("quarantine")) == []
    assert {(entry.robot_id, entry.world) for entry in entries} == {("a", "nominal"), ("b", "shifted")}
    assert {entry.outcome for entry in entries} <= {Outcome.SUCCESS, Outcome.TIME_LIMIT}
    for entry in entries:
        assert entry.interventions >= 1
        episode = read_episode(store.get(entry.key))
        assert episode.controllers_T[0] == Controller.POLICY
        assert int((episode.controllers_T == Controller.HUMAN).sum()) == entry.human_steps > 0


def test_a_script_at_another_desk_helps_a_robot_that_asks(tmp_path, store, keep_signals):
    """`lwd operator --scripted` is a process of its own that knows of the robot what comes over the bus."""
    process: list[subprocess.Popen[bytes]] = []
    deadline_s = time.monotonic() + 120

    def look() -> None:
        """End the host once an episode is committed in which it was helped."""
        if process and (time.monotonic() > deadline_s or any(entry.human_steps for entry in committed(store))):
            os.kill(os.getpid(), signal.SIGTERM)

    with coordinated(store, look), NatsServer(tmp_path / "nats"):
        command = [sys.executable, "-m", "lwd", "operator", "--scripted", "--run", str(tmp_path), "--name", "ada"]
        process.append(spawn(command, log=tmp_path / "operator.log"))
        try:
            run_robot_host(
                RobotHostConfig(
                    run=tmp_path,
                    host_id="host",
                    robots=(RobotSpec(robot_id="a"),),
                    tasks=("unlock_and_lock",),
                    operator="none",
                    help_patience=20,
                )
            )
        finally:
            stop(process[0])
    log = (tmp_path / "operator.log").read_text()
    assert process[0].returncode == 0, log
    helped = [entry for entry in committed(store) if entry.human_steps]
    assert helped, log
    assert list(store.list("quarantine")) == []
    for entry in helped:
        episode = read_episode(store.get(entry.key))
        assert set(episode.info.operator_ids) == {"ada"}
        for begun in episode.info.operator_steps:
            assert (episode.controllers_T[begun - 1], episode.controllers_T[begun]) == (
                Controller.POLICY,
                Controller.HUMAN,
            )
