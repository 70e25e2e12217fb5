"""A host with two LeRobot arms, one of which breaks, while a policy drives both; told to stop by a real signal."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lwd.data.identity import found_store
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.operators.lerobot import LeRobotOperator
from lwd.robots.lerobot import LeRobotConfig, LeRobotRobot
from lwd.robots.protocol import Robot
from lwd.types import Observation, StepResult, Task

from .. import point_mass
from .bus_arm import ARM, Breaks, BusArm, BusArmConfig, BusLeader, BusLeaderConfig, Buttons, ButtonsConfig


class Far(point_mass.SteeringPolicy):
    """Lifts the arm to where it must not be let go."""

    embodiment = ARM

    def act(self, observations, instructions, *, generator):
        return np.full((len(observations), self.horizon, 2), 60.0, np.float32)


class Shared:
    """A LeRobot robot that may share its host: it says nothing of the world moving on between two steps."""

    embodiment = ARM

    def __init__(self, robot: LeRobotRobot) -> None:
        self._robot = robot
        self.episodes = 0
        self.hold, self.close, self.failed, self.park = robot.hold, robot.close, robot.failed, robot.park
        self.driving, self.privileged = robot.driving, robot.privileged

    def reset(self, task: Task, seed: int) -> Observation:
        return self._robot.reset(task, seed)

    def step(self, action) -> StepResult:
        result = self._robot.step(action)
        self.episodes += result.outcome is not None
        return result


class Cell:
    """An arm with its leader and its buttons."""

    def __init__(self, breaks: Breaks, settings: LeRobotConfig) -> None:
        self.breaks = breaks
        self.arm = BusArm(BusArmConfig(id="arm", breaks=breaks))
        self.leader = BusLeader(BusLeaderConfig(id="leader", breaks=breaks))
        self.buttons = Buttons(ButtonsConfig(id="buttons", breaks=breaks))
        self.robot = LeRobotRobot(self.arm, ARM, settings)
        self.shared = Shared(self.robot)
        self.operator = LeRobotOperator(self.leader, ARM, self.robot.action_names, events=self.buttons)

    @property
    def open(self) -> list[str]:
        """What of it is open."""
        found = {
            "robot": self.arm.bus, "camera": self.arm.cameras["front"], "teleoperator": self.leader.bus,
            "events": self.buttons.bus,
        }  # fmt: skip
        return [name for name, one in found.items() if one.is_connected]


def run_cells(
    root: Path,
    url: str,
    cells: dict[str, Cell],
    until: Callable[[], bool],
    *,
    shared: bool = True,
    within_s: float = 30.0,
) -> bool:
    """Run a host with them; SIGTERM ends it once `until` says so. Returns whether it did in time."""
    store = DirectoryStore(root / "store")
    found_store(store)
    PolicyPublisher(store).publish(point_mass.policy_bytes(1.0), update=0, snapshot=0)
    reached, over = threading.Event(), threading.Event()

    def wait() -> None:
        deadline_s = time.monotonic() + within_s
        while not over.wait(0.01):
            if until():
                reached.set()
            if reached.is_set() or time.monotonic() > deadline_s:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def make(spec: RobotSpec) -> tuple[Robot, LeRobotOperator]:
        cell = cells[spec.robot_id]
        return (cell.shared if shared else cell.robot), cell.operator

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        run_robot_host(
            RobotHostConfig(
                run=root, host_id="host", robots=tuple(RobotSpec(robot_id=name, world="real") for name in cells),
                operator="none", bus=BusConfig(urls=(url,)), stop_drain_s=0.1, drain_s=0.1,
            ),
            make=make,
            tasks=(next(iter(cells.values())).robot._config).tasks_at(ARM.control_hz),
            load=lambda data: Far(point_mass.load_policy(data).gain),
        )  # fmt: skip
    finally:
        over.set()
        thread.join()
    return reached.is_set()
