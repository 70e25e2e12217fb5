"""A held robot stands still, also one that drives on by itself; nobody is moved home under their hands."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lwd.errors import ActionRejected, ResetInterrupted, RobotFault
from lwd.fleet.nats_server import NatsServer
from lwd.operators.remote import RemoteOperator
from lwd.robots.gate import Gate
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot
from lwd.robots.protocol import driving_of
from lwd.robots.session import EpisodeSession
from lwd.types import Embodiment, Outcome, Source, TokenSpec

from .. import driven_fleet, point_mass
from .joint_robot import JointRobot, JointRobotConfig
from .test_robot_contract import CONFIG as ARM_CONFIG
from .test_robot_contract import JOINT_ARM
from .wheeled_robot import WheeledRobot

BASE = Embodiment(
    name="base", control_hz=30.0, state_tokens=(TokenSpec(name="state", size=6),),
    action_low=(-3.0, 0.0), action_high=(3.0, 1.0),
)  # fmt: skip
FAST = np.tile(np.array([[2.8, 0.9]], np.float32), (8, 1))


def config(**settings: object) -> LeRobotConfig:
    tasks = [{"name": "roll", "instructions": ["roll"], "time_limit_s": 0.5}]
    return LeRobotConfig.model_validate({"tasks": tasks, **settings})


class Rolling:
    """A base that a policy drives at 2.8 m/s, in an episode that a person may take over."""

    def __init__(self) -> None:
        self.device = WheeledRobot()
        self.robot = LeRobotRobot(self.device, BASE, config())
        self.remote = RemoteOperator(driving_of(self.robot))
        self.session = EpisodeSession(
            self.robot, config().tasks_at(30.0)[0], "roll", seed=0, robot_id="base", source=Source.FLEET,
            policy_version=0, world="real", operator=self.remote,
        )  # fmt: skip
        while self.session.steps < 3:
            if self.session.needs_chunk:
                self.session.load_chunk(FAST)
            self.session.step()
        assert self.device.sent[-1]["x.vel"] == pytest.approx(2.8)

    def take(self) -> int:
        self.remote.take("ada", "tab")
        return self.remote.view().lease

    def drive(self) -> int:
        lease, before = self.take(), self.session.steps
        for sequence in range(100):
            self.remote.apply("resume", lease)
            self.remote.drive(lease, sequence, np.array([2.8, 0.9], np.float32))
            self.session.step()
            if self.session.steps == before + 3:
                break
        assert self.device.sent[-1]["x.vel"] == pytest.approx(2.8)
        return lease

    def poll(self) -> None:
        """What a host does while nothing is to be executed."""
        if not self.session.done and not self.session.discarded and not self.session.held:
            self.session.step()


def taken(rolling: Rolling) -> None:
    rolling.take()


def hands_off(rolling: Rolling) -> None:
    lease = rolling.drive()
    rolling.remote.drive(lease, 1000, np.zeros(2, np.float32))


def dead_man(rolling: Rolling) -> None:
    rolling.drive()
    rolling.remote._takeover._commanded_s -= 1.0


def paused(rolling: Rolling) -> None:
    rolling.remote.apply("pause", rolling.drive())


def abandoned(rolling: Rolling) -> None:
    rolling.drive()
    rolling.remote.abandon("tab")


def time_limit(rolling: Rolling) -> None:
    while not rolling.session.done:
        if rolling.session.needs_chunk:
            rolling.session.load_chunk(FAST)
        rolling.session.step()


def labelled(rolling: Rolling) -> None:
    rolling.remote.end(rolling.drive(), None)
    rolling.remote._takeover._labelled_s -= 10.0


def bad_chunk(rolling: Rolling) -> None:
    with pytest.raises(ActionRejected):
        rolling.session.load_chunk(FAST * np.nan)


def old_plan(rolling: Rolling) -> None:
    time.sleep(0.2)


def no_measurement(rolling: Rolling) -> None:
    """It still takes commands."""
    rolling.device.broken = "silent"
    with pytest.raises(RobotFault, match="no status packet"):
        rolling.session.step()


def closed(rolling: Rolling) -> None:
    rolling.robot.close()
    rolling.device._connected = True  # what it does without a connection is its own


WAYS = (
    taken,
    hands_off,
    dead_man,
    paused,
    abandoned,
    time_limit,
    labelled,
    bad_chunk,
    old_plan,
    no_measurement,
    closed,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_base_stands_still_by_every_way_into_a_hold(way: Callable[[Rolling], None]) -> None:
    rolling = Rolling()
    way(rolling)
    if way not in (bad_chunk, no_measurement, closed):
        rolling.poll()
    last, at_m = rolling.device.sent[-1], rolling.device.moved_m
    assert last["x.vel"] == 0.0
    time.sleep(0.3)
    assert rolling.device.moved_m == pytest.approx(at_m)
    if way is not no_measurement:
        # Where it was measured, not where it was sent.
        assert 0.5 < last["lift.pos"] < 0.9


def test_a_hold_is_repeated_and_its_position_does_not_sink() -> None:
    rolling = Rolling()
    rolling.take()
    sent = len(rolling.device.sent)
    begun_s = time.monotonic()
    while time.monotonic() < begun_s + 0.7:
        rolling.device.lift -= 0.001  # its load pulls
        assert rolling.session.held
        rolling.session.look()
        time.sleep(0.02)
    holds = rolling.device.sent[sent:]
    assert 3 <= len(holds) <= 6  # the first is sent twice: wheels before the measurement
    assert {command["x.vel"] for command in holds} == {0.0}
    assert len({command["lift.pos"] for command in holds[1:]}) == 1


def test_a_watchdog_holds_while_the_robot_steps_and_no_two_are_on_the_bus() -> None:
    rolling = Rolling()
    stop = threading.Event()
    failed: list[BaseException] = []

    def watch() -> None:
        try:
            while not stop.is_set():
                rolling.robot.hold()
        except BaseException as error:
            failed.append(error)

    watchdog = threading.Thread(target=watch)
    watchdog.start()
    try:
        for _ in range(10):
            rolling.session.load_chunk(FAST)
            rolling.session.step()
    finally:
        stop.set()
        watchdog.join()
    assert failed == []


def test_a_robot_whose_driver_hangs_is_said_not_to_hold() -> None:
    rolling = Rolling()
    with rolling.robot._driver._lock:
        begun_s = time.monotonic()
        with pytest.raises(RobotFault, match=r"has not returned for 0\.5 s; it may move on: switch it off"):
            rolling.robot.hold()
        assert time.monotonic() - begun_s < 2.0
    gate = Gate(rolling.robot)
    rolling.device.broken = "dead"
    assert not gate.hold()
    assert "no status packet" in gate.error


def test_a_robot_that_was_sent_nothing_is_sent_nothing() -> None:
    device = WheeledRobot()
    robot = LeRobotRobot(device, BASE, config())
    robot.hold()
    robot.reset(config().tasks_at(30.0)[0], 0)
    robot.hold()
    assert device.sent == []


def test_a_gripper_keeps_its_last_command() -> None:
    arm = JointRobot(JointRobotConfig(id="test"))
    robot = LeRobotRobot(arm, JOINT_ARM, ARM_CONFIG)
    robot.reset(ARM_CONFIG.tasks_at(JOINT_ARM.control_hz)[0], 0)
    robot.step(np.array([60.0, -60.0, 5.0], np.float32))
    measured, sent = arm.positions.copy(), []
    arm.send_action = lambda action: sent.append(action) or action
    robot.hold()
    assert sent[-1]["gripper.pos"] == pytest.approx(5.0)
    assert measured[2] > 20.0
    np.testing.assert_allclose([sent[-1]["shoulder.pos"], sent[-1]["elbow.pos"]], measured[:2], atol=1e-4)


@pytest.mark.parametrize("who", ["operator", "watchdog"])
def test_a_robot_on_the_way_home_holds_when_somebody_says_so(who: str) -> None:
    device = WheeledRobot()
    device.lift = 0.0
    robot = LeRobotRobot(device, BASE, config(home=[0.0, 1.0], home_s=3.0))
    until = 20

    def stopped() -> bool:
        if len(device.sent) < until:
            return False
        if who == "watchdog":
            robot.hold()
            return False
        return True

    robot.interrupted = stopped
    with pytest.raises(ResetInterrupted):
        robot.reset(config().tasks_at(30.0)[0], 0)
    # The two of the hold are the last.
    assert len(device.sent) <= until + 2
    assert device.sent[-1]["lift.pos"] < 0.5
    with pytest.raises(RobotFault, match="reset"):
        robot.step(FAST[0])


def test_a_robot_that_rests_before_its_episode_can_be_taken_over_at_once() -> None:
    robot = LeRobotRobot(WheeledRobot(), BASE, config(pause_s=60.0))
    begun_s = time.monotonic()
    robot.interrupted = lambda: time.monotonic() > begun_s + 0.2
    with pytest.raises(ResetInterrupted):
        robot.reset(config().tasks_at(30.0)[0], 0)
    assert time.monotonic() - begun_s < 10.0


class CountsResets(LeRobotRobot):
    resets = 0

    def reset(self, task, seed):
        self.resets += 1
        return super().reset(task, seed)


def test_a_base_stands_still_in_a_running_host_while_it_is_held_and_waits_for_who_holds_it(tmp_path, monkeypatch):
    """It drove on for meters."""
    monkeypatch.setattr("lwd.operators.takeover.UNDO_S", 0.2)
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.05)
    device = WheeledRobot()
    device.goal = 1e6  # the policy goes there at full speed
    base = replace(point_mass.EMBODIMENT, control_hz=20.0)
    robot = CountsResets(device, base, config())
    with (
        NatsServer(tmp_path / "nats") as server,
        driven_fleet.driven_fleet(tmp_path, server, gain=1.0, make=lambda: robot) as fleet,
    ):
        remote, stop = fleet.remotes["robot-0"], threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            walk(device, robot, fleet, remote)
        finally:
            stop.set()
            thread.join()
        assert stands(device)


def walk(device, robot, fleet, remote) -> None:
    wait_for(lambda: fleet.steps_of("robot-0") > 3 and device.moved_m > 0.2)
    remote.take("ada", "tab")
    wait_for(lambda: remote.view().phase == "paused" and device.sent[-1]["x.vel"] == 0)
    assert stands(device)
    lease, resets = remote.view().lease, robot.resets
    remote.end(lease, Outcome.FAILURE)
    wait_for(lambda: remote.view().waits)
    assert stands(device)
    assert robot.resets == resets, "it was reset under the hands of whoever holds it"
    remote.apply("resume", lease)
    wait_for(lambda: fleet.steps_of("robot-0") == 0 and robot.resets == resets + 1)
    remote.apply("release", lease)
    wait_for(lambda: fleet.steps_of("robot-0") > 3)
    # It no longer says where it is: it is held, and waits for a person.
    resets, device.broken = robot.resets, "silent"
    wait_for(lambda: remote.view().reason.startswith("it had a fault"))
    device.broken = ""
    assert stands(device)
    assert robot.resets == resets, "it was reset after a fault with nobody there"
    remote.take("ada", "tab")
    assert stands(device)
    remote.apply("release", remote.view().lease)
    wait_for(lambda: robot.resets > resets and fleet.steps_of("robot-0") > 3)


def stands(device: WheeledRobot, seconds: float = 0.6) -> bool:
    before_m = device.moved_m
    time.sleep(seconds)
    return abs(device.moved_m - before_m) < 1e-6


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
