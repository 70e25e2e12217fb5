"""One episode of a LeRobot arm in a host process, while somebody elsewhere drives it over the bus."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from lwd.data.episode_file import read_episode
from lwd.data.identity import found_store
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.nats_server import NatsServer
from lwd.models.checkpoint import policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot
from lwd.types import Embodiment, Episode, TokenSpec

from .joint_robot import JointRobot

ARM = Embodiment(
    name="joint-arm", control_hz=20.0, state_tokens=(TokenSpec(name="state", size=3),),
    action_low=(-90.0, -90.0, 0.0), action_high=(90.0, 90.0, 100.0),
)  # fmt: skip
Person = Callable[[BusConfig, Callable[[], bool]], Awaitable[None]]
"""What drives the robot `arm` of the bus; told by the function when the episode is over."""


def config(**settings: object) -> LeRobotConfig:
    """One task, `reach`, with further settings."""
    tasks = [{"name": "reach", "instructions": ["reach"], "time_limit_s": 600}]
    return LeRobotConfig.model_validate({"tasks": tasks, **settings})


def driven_episode(root: Path, device: JointRobot, settings: LeRobotConfig, person: Person) -> Episode:
    """Run an untrained policy on the device until the person's label ends the episode; return what was recorded."""
    store = DirectoryStore(root / "store")
    found_store(store)  # as the coordinator does
    encoder = InstructionEncoder({"reach": np.ones(EMBEDDING_SIZE, np.float32)})
    statistics = StateStatistics(mean=(0.0,) * 3, std=(1.0,) * 3)
    policy = SmallVLA(ARM, VLAConfig(horizon=5, token_width=4, expert_width=8, expert_depth=1), statistics, encoder)
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    over = threading.Event()

    async def drive() -> None:
        await person(BusConfig(urls=(server.url,)), over.is_set)

    with NatsServer(root / "nats") as server:
        thread = threading.Thread(target=lambda: asyncio.run(drive()))
        thread.start()
        try:
            run_robot_host(
                RobotHostConfig(
                    run=root, host_id="host", robots=(RobotSpec(robot_id="arm", world="real"),), operator="none",
                    max_episodes=1, drain_s=0.5,
                ),
                make=lambda _: (LeRobotRobot(device, ARM, settings), None),
                tasks=settings.tasks_at(ARM.control_hz),
            )  # fmt: skip
        finally:
            over.set()
            thread.join(timeout=60)
    (entry,) = store.list("episodes")
    return read_episode(store.get(entry.key))
