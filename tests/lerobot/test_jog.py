"""A LeRobot arm that a person at the console drives joint by joint, over the bus."""

import asyncio
import contextlib
from collections.abc import Callable

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import (
    CONTROL_SUBJECT,
    WATCH_SUBJECT,
    ControlCommand,
    ControlState,
    HostHeartbeat,
    WatchRequest,
    command_subject,
    host_subject,
)
from lwd.robots.lerobot import LeRobotRobot
from lwd.types import Controller, Outcome

from .driven_arm import ARM, config, driven_episode
from .joint_robot import JointRobot, JointRobotConfig

CONFIG = config(drive_speeds={"gripper.pos": 50.0})


class Console:
    """Commands to one arm, and its answers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.answers: dict[str, ControlState] = {}
        self.beats: list[HostHeartbeat] = []
        self._sent = 0
        self._seen_s = 0.0

    async def listen(self) -> None:
        async def state(message: ControlState) -> None:
            self.answers[message.request_id] = message
            self._seen_s = message.robot_time_s

        async def beat(message: HostHeartbeat) -> None:
            self.beats.append(message)

        await self._bus.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, state)
        await self._bus.subscribe(host_subject("*"), HostHeartbeat, beat)

    async def ask(self, verb: str, lease: int = 0) -> ControlState:
        await self._watch()
        if verb == "resume":
            self._seen_s = 0.0
            await until(lambda: self._seen_s)
        self._sent += 1
        await self._send(verb, lease, request_id=str(self._sent))
        await until(lambda: str(self._sent) in self.answers)
        return self.answers[str(self._sent)]

    async def jog(self, lease: int, deflection: tuple[float, ...], seconds: float) -> None:
        for number in range(round(seconds / 0.03)):
            if number % 30 == 0:
                await self._watch()
            self._sent += 1
            await self._send("jog", lease, sequence=self._sent, action=deflection)
            await asyncio.sleep(0.03)

    async def _watch(self) -> None:
        await self._bus.publish(WATCH_SUBJECT, WatchRequest(console_id="console", robots=("arm",), hz=5))

    async def _send(self, verb: str, lease: int, **rest) -> None:
        command = ControlCommand(
            robot_id="arm", verb=verb, operator_id="ada", client_id="tab", lease=lease, seen_s=self._seen_s, **rest
        )
        await self._bus.publish(command_subject("arm"), command)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


class Soft(JointRobot):
    """Stays where a hand turns it, as long as it is told nothing new: a hold is repeated."""

    _last: dict[str, float] | None = None

    def send_action(self, action):
        if action == self._last:
            return action
        self._last = dict(action)
        return super().send_action(action)


def test_an_arm_is_jogged_from_where_its_joints_are(tmp_path, keep_signals):
    # As fast as the fastest of its joints is driven, and no faster: it lags behind what the policy wants.
    device = Soft(JointRobotConfig(id="follower", camera=False, speed=2.5))
    begun: list[np.ndarray] = []
    trace: list[str] = []

    async def person(where, over) -> None:
        bus = await Bus.connect(where, name="console")
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(bus.close)
            console = Console(bus)
            await console.listen()
            await until(lambda: console.beats and console.beats[-1].robots and console.beats[-1].robots[0].step > 10)
            axes = console.beats[-1].robots[0].axes
            assert [(axis.label, axis.absolute) for axis in axes] == [
                ("shoulder", True), ("elbow", True), ("gripper", True),
            ]  # fmt: skip
            lease = (await console.ask("take")).lease
            await asyncio.sleep(0.2)
            # Somebody moves it while it is held.
            device.positions = np.array([20.0, -30.0, 40.0])
            await asyncio.sleep(0.2)
            begun.append(device.positions)
            await console.ask("resume", lease)
            await console.jog(lease, (1.0, 0.0, -0.5), 1.0)
            begun.append(device.positions)
            trace.append("jogged")
            await console.jog(lease, (0.0, 0.0, 0.0), 0.5)
            begun.append(device.positions)
            await console.ask("success", lease)
            await until(over)
            trace.append("over")

    episode = driven_episode(tmp_path, device, CONFIG, person)
    assert trace == ["jogged", "over"]
    assert (episode.info.outcome, episode.info.operator_ids) == (Outcome.SUCCESS, ("ada",))
    human_TA = episode.actions_TA[episode.controllers_T == Controller.HUMAN]
    steps = np.arange(1, len(human_TA) + 1)
    assert 10 <= len(steps) <= 25
    # 180 degrees of range: 45 a second, 2.25 a step; the gripper at the half of its 50 a second.
    np.testing.assert_allclose(human_TA[:, 0], 20 + 2.25 * steps, atol=1e-3)
    np.testing.assert_allclose(human_TA[:, 1], -30)
    # A gripper goes on from what it was told last: from where it is measured it would let its load fall.
    before_A = episode.actions_TA[episode.controllers_T == Controller.POLICY][-1]
    assert np.abs(np.diff(np.concatenate([before_A[2:], human_TA[:, 2]]))).max() <= 1.25 + 1e-3
    # Hands off, it stays where it was measured: it is told so again and again.
    np.testing.assert_allclose(begun[2][:2], human_TA[-1, :2], atol=2.5)
    assert np.abs(begun[1] - begun[2]).max() <= 2.5


def test_columns_that_are_no_positions_are_speeds_and_unknown_ones_are_named():
    class Wheels(JointRobot):
        @property
        def action_features(self):
            return {"shoulder.pos": float, "x.vel": float, "gripper.pos": float}

    device = Wheels(JointRobotConfig(id="base", camera=False))
    robot = LeRobotRobot(device, ARM, CONFIG)
    assert [(axis.label, axis.absolute, axis.measured, axis.speed) for axis in robot.driving.axes] == [
        ("shoulder", True, 0, 45), ("x.vel", False, None, 45), ("gripper", True, 2, 50),
    ]  # fmt: skip
    wrong = CONFIG.model_copy(update={"drive_speeds": {"wrist.pos": 5.0}})
    with pytest.raises(ConfigError, match=r"names 'wrist\.pos'; the action has shoulder\.pos, x\.vel, gripper\.pos"):
        LeRobotRobot(device, ARM, wrong)
