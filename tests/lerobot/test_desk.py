"""A LeRobot device at an operator's desk drives a LeRobot robot of the fleet, over the bus, under a lease."""

import asyncio
import contextlib
import signal
import threading

import numpy as np
import pytest
from lerobot.teleoperators.utils import TeleopEvents

from lwd.data.episode_file import read_episode
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.errors import ConfigError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.desk import Desk
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.shift import look_after
from lwd.models.checkpoint import policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.operators.lerobot import LeRobotOperator
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot
from lwd.robots.lerobot_devices import make_teleoperator
from lwd.types import Controller, Embodiment, Outcome, TokenSpec

from .joint_robot import JointLeader, JointLeaderConfig, JointRobot, JointRobotConfig

HZ = 20.0
ARM = Embodiment(
    name="joint-arm", control_hz=HZ, state_tokens=(TokenSpec(name="state", size=3),),
    action_low=(-90.0, -90.0, 0.0), action_high=(90.0, 90.0, 100.0),
)  # fmt: skip
CONFIG = LeRobotConfig.model_validate({"tasks": [{"name": "reach", "instructions": ["reach"], "time_limit_s": 600}]})


@pytest.fixture
def keep_signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_leader_arm_elsewhere_drives_a_robot_and_labels_its_episode(tmp_path, keep_signals):
    store = DirectoryStore(tmp_path / "store")
    statistics = StateStatistics(mean=(0.0,) * 3, std=(1.0,) * 3)
    encoder = InstructionEncoder({"reach": np.ones(EMBEDDING_SIZE, np.float32)})
    policy = SmallVLA(ARM, VLAConfig(horizon=5, token_width=4, expert_width=8, expert_depth=1), statistics, encoder)
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    robot = JointRobot(JointRobotConfig(id="follower", camera=False, speed=20.0))
    leader = JointLeader(JointLeaderConfig(id="leader"))
    buttons = JointLeader(JointLeaderConfig(id="buttons", with_events=True))
    stop, over = asyncio.Event(), threading.Event()
    trace: list[str] = []

    async def person() -> None:
        async def until(condition, what: str) -> None:
            async with asyncio.timeout(60):
                while not condition():
                    await asyncio.sleep(0.02)
            trace.append(what)

        def connect(embodiment: Embodiment):
            assert (embodiment.control_hz, embodiment.action_low) == (HZ, ARM.action_low)
            return contextlib.closing(LeRobotOperator(leader, embodiment, events=buttons))

        async with Desk.open(BusConfig(urls=(server.url,)), "ada") as desk:
            desk.look_at("arm")
            await until(lambda: desk._states.get("arm"), "there")
            looking = asyncio.create_task(look_after(desk, "arm", connect, stop))
            phase = lambda: desk._states["arm"][1].phase  # noqa: E731
            await until(lambda: leader.is_connected, "connected")
            await asyncio.sleep(0.3)
            assert phase() == "autonomous"
            leader.pose["shoulder.pos"] = 60.0
            await until(lambda: phase() == "human", "taken over")
            await until(lambda: robot.positions[0] == 60.0, "follows")
            # The arm rests: the policy has the robot again.
            await until(lambda: (phase(), desk._states["arm"][1].lease) == ("autonomous", 0), "handed back")
            leader.pose["shoulder.pos"] = -50.0
            await until(lambda: robot.positions[0] == -50.0, "follows again")
            buttons.events = {TeleopEvents.SUCCESS: True}
            await until(lambda: desk._states["arm"][1].label == "success", "labelled")
            buttons.events = {}
            await until(over.is_set, "the episode is over")
            stop.set()
            await looking
        assert not leader.is_connected

    with NatsServer(tmp_path / "nats") as server:
        thread = threading.Thread(target=asyncio.run, args=(person(),))
        thread.start()
        try:
            run_robot_host(
                RobotHostConfig(
                    run=tmp_path, host_id="host", robots=(RobotSpec(robot_id="arm", world="real"),), operator="none",
                    max_episodes=1, drain_s=0.5,
                ),
                make=lambda _: (LeRobotRobot(robot, ARM, CONFIG), None),
                tasks=CONFIG.tasks_at(HZ),
            )  # fmt: skip
        finally:
            over.set()
            thread.join(timeout=60)
    assert trace[-1] == "the episode is over", trace
    (entry,) = store.list("episodes")
    episode = read_episode(store.get(entry.key))
    assert episode.info.outcome is Outcome.SUCCESS
    assert episode.info.operator_ids == ("ada", "ada")
    human_T = episode.controllers_T == Controller.HUMAN
    assert not human_T[0]
    assert set(episode.actions_TA[human_T][:, 0]) == {60.0, -50.0}


def test_a_device_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="gives delta_x, delta_y, delta_z, gripper; joint-arm takes 3 numbers"):
        LeRobotOperator(make_teleoperator({"type": "gamepad"}), ARM)
