"""A LeRobot device at an operator's desk drives a LeRobot robot of the fleet, over the bus, under a lease."""

import asyncio
import contextlib

import pytest
from lerobot.teleoperators.utils import TeleopEvents

from lwd.errors import ConfigError
from lwd.fleet.desk import Desk
from lwd.fleet.shift import look_after
from lwd.operators.lerobot import LeRobotOperator
from lwd.robots.lerobot_devices import make_teleoperator
from lwd.types import Controller, Embodiment, Outcome

from .driven_arm import ARM, config, driven_episode
from .joint_robot import JointLeader, JointLeaderConfig, JointRobot, JointRobotConfig


def test_a_leader_arm_elsewhere_drives_a_robot_and_labels_its_episode(tmp_path, keep_signals):
    robot = JointRobot(JointRobotConfig(id="follower", camera=False, speed=20.0))
    leader = JointLeader(JointLeaderConfig(id="leader"))
    buttons = JointLeader(JointLeaderConfig(id="buttons", with_events=True))
    stop = asyncio.Event()
    trace: list[str] = []

    async def person(bus, over) -> None:
        async def until(condition, what: str) -> None:
            async with asyncio.timeout(60):
                while not condition():
                    await asyncio.sleep(0.02)
            trace.append(what)

        def connect(embodiment: Embodiment):
            assert (embodiment.control_hz, embodiment.action_low) == (ARM.control_hz, ARM.action_low)
            return contextlib.closing(LeRobotOperator(leader, embodiment, events=buttons))

        async with Desk.open(bus, "ada") as desk:
            desk.look_at("arm")
            await until(lambda: desk._states.get("arm") and desk._view is not None, "there")
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
            await until(over, "the episode is over")
            stop.set()
            await looking
        assert not leader.is_connected

    episode = driven_episode(tmp_path, robot, config(), person)
    assert trace[-1] == "the episode is over", trace
    assert episode.info.outcome is Outcome.SUCCESS
    assert episode.info.operator_ids == ("ada", "ada")
    human_T = episode.controllers_T == Controller.HUMAN
    assert not human_T[0]
    assert set(episode.actions_TA[human_T][:, 0]) == {60.0, -50.0}


def test_a_device_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="gives delta_x, delta_y, delta_z, gripper; joint-arm takes 3 numbers"):
        LeRobotOperator(make_teleoperator({"type": "gamepad"}), ARM)
