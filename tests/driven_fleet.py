"""A robot host with point masses that people can take over, on a real bus and a real store."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lwd.data.log import EpisodeEntry, LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.console_link import ConsoleLink
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.edge import EdgeSettings, FleetRobot, RobotHost
from lwd.fleet.host_network import HostNetwork
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool, SpoolLimits
from lwd.operators.help import StuckRule
from lwd.operators.remote import RemoteOperator
from lwd.robots.protocol import BodyPoses, Robot, driving_of
from lwd.types import FloatArray, StepResult, Task

from . import point_mass

TASK = Task(
    name="far",
    instructions=("go to the goal",),
    heldout_instructions=("find the goal",),
    sub_steps=("half way", "at the goal"),
    time_limit=100_000,
    long_horizon=False,
)
"""Never over by itself before its goal is reached, at the pace of these robots."""
_STEP_S = 0.002
"""At full speed a time limit of 100,000 steps is over in five seconds."""


class PosedPointMass(point_mass.PointMassRobot):
    """Can be drawn: one body."""

    def step(self, action: FloatArray) -> StepResult:
        time.sleep(_STEP_S)
        return super().step(action)

    def body_poses(self) -> BodyPoses:
        x, y = self._position
        return BodyPoses(poses_N7=np.array([[x, y, 0, 1, 0, 0, 0]], np.float32))


class DrivenFleet:
    def __init__(self, run: Path, server: NatsServer, gain: float, robots: int, make: Callable[[], Robot]) -> None:
        self.store = DirectoryStore(run / "store")
        PolicyPublisher(self.store).publish(point_mass.policy_bytes(gain), update=0, snapshot=0)
        self.spool = Spool(run / "spool", SpoolLimits(min_free_bytes=0))
        names = [f"robot-{number}" for number in range(robots)]
        made = {name: make() for name in names}
        self.remotes = {
            name: RemoteOperator(driving_of(robot), help_rule=StuckRule(patience=30)) for name, robot in made.items()
        }
        self._units = [
            FleetRobot(
                robot_id=name,
                robot=made[name],
                world="nominal",
                operator=self.remotes[name],
                start=self.spool.claim(name),
            )
            for name in names
        ]
        self.network = HostNetwork(
            host_id="host",
            bus=lambda: BusConfig(urls=(server.url,)),
            store=self.store,
            shipper=Shipper(self.store, self.spool, set(names)),
            policies=PolicyFollower(self.store, point_mass.load_policy, max_loaded=3),
            metrics=MetricsFile(run, "host"),
            heartbeat_s=0.1,
            console=ConsoleLink("host", self.remotes),
        )
        self._host = RobotHost(self._units, EdgeSettings(tasks=(TASK,)), self.network)

    def host(self) -> RobotHost:
        return self._host

    def steps_of(self, robot_id: str) -> int:
        """Steps of a robot's present episode, as of now."""
        session = next(slot.session for slot in self._host._slots if slot.unit.robot_id == robot_id)
        return 0 if session is None else session.steps

    def episode_of(self, robot_id: str) -> str:
        session = next(slot.session for slot in self._host._slots if slot.unit.robot_id == robot_id)
        return "" if session is None else session.episode_id

    def finish(self) -> list[EpisodeEntry]:
        """Bring everything into the log and return it."""
        assert self.network.drain(10.0, committed=False)
        coordinator = Coordinator(self.store, EpisodeLimits(embodiment=point_mass.EMBODIMENT))
        wanted = self._host.finished
        reader = LogReader(self.store)
        while len(reader) < wanted:
            coordinator.process(coordinator.unprocessed())
            reader.poll()
        return [item.entry for item in reader.snapshot.episodes.values()]


@contextmanager
def driven_fleet(
    run: Path, server: NatsServer, *, gain: float, robots: int = 1, make: Callable[[], Robot] = PosedPointMass
) -> Iterator[DrivenFleet]:
    fleet = DrivenFleet(run, server, gain, robots, make)
    try:
        yield fleet
    finally:
        fleet.network.close()
        fleet.spool.close()
