"""Whatever a robot or an operator raises, at whatever call, is a fault of that robot; the others go on."""

from collections.abc import Iterator
from typing import Any

import pytest

from lwd.errors import ConfigError
from lwd.fleet.edge_settings import FleetRobot
from lwd.fleet.host_process import RobotHostConfig, RobotSpec
from lwd.fleet.nats_server import NatsServer
from lwd.operators.protocol import OBSERVE
from lwd.operators.remote import RemoteOperator
from lwd.robots.protocol import driving_of

from .. import point_mass
from ..unit.fleet.test_edge import make_bench


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Foreign(point_mass.PointMassRobot):
    """Raises at a call what no robot should; the first time it is asked only for what fails at its start."""

    def __init__(self, call: str, error: BaseException) -> None:
        super().__init__()
        self._call, self._error = call, error
        self.resets = 0

    def raise_at(self, call: str) -> None:
        if call == self._call:
            raise self._error

    def reset(self, task, seed):
        self.resets += 1
        self.raise_at("reset")
        return super().reset(task, seed)

    def step(self, action):
        self.raise_at("step")
        return super().step(action)

    def hold(self):
        self.raise_at("hold")
        super().hold()


class Script:
    """An operator that somebody wrote."""

    def __init__(self, robot: Foreign) -> None:
        self._robot = robot

    def begin(self, view: Any, seed: int) -> None:
        self._robot.raise_at("begin")

    def poll(self, view: Any):
        self._robot.raise_at("poll")
        return OBSERVE


ERRORS = {
    "reset": KeyError("agent_pos"),
    "step": ValueError("too many values to unpack"),
    "hold": SystemExit("the bus is gone"),
    "begin": AttributeError("no attribute 'task'"),
    "poll": SystemExit("the driver has no licence"),
}


def test_the_robot_beside_them_goes_on(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.01)
    robots = [Foreign(call, error) for call, error in ERRORS.items()]
    with make_bench(tmp_path, server, robots=len(robots) + 1) as bench:
        bench.publish(2.0)
        for number, robot in enumerate(robots):
            remote = RemoteOperator(driving_of(robot), otherwise=Script(robot))
            bench.units[number] = FleetRobot(robot_id=f"robot-{number}", robot=robot, world="nominal", operator=remote)
        host = bench.host()
        # More faults in a row than all robots of a host may have.
        host.run(lambda: host.finished >= 3 and all(robot.resets >= 2 for robot in robots) and robots[0].resets >= 6)
        finished = {slot.unit.robot_id: slot.begun for slot in host._slots}
        assert bench.network.drain(10.0, committed=False)
    assert finished[f"robot-{len(robots)}"] >= 2
    for error in ERRORS.values():
        assert str(error) in caplog.text


def test_our_own_configuration_error_at_the_first_start_ends_the_host(tmp_path, server):
    with make_bench(tmp_path, server, robots=1) as bench:
        bench.publish(2.0)
        robot = Foreign("reset", ConfigError("gym_arguments: 'wheels' is none of its arguments"))
        bench.units[0] = FleetRobot(robot_id="robot-0", robot=robot, world="nominal")
        with pytest.raises(ConfigError, match="wheels"):
            bench.host().run(lambda: False)


@pytest.mark.parametrize(("host", "robot"), [("host", "an arm"), ("a host", "arm")])
def test_a_name_that_no_episode_may_have_is_refused_at_the_start(tmp_path, host, robot):
    """It was a traceback of the bus's client."""
    with pytest.raises(ConfigError, match=r"'an? \w+' is no name of a host or robot"):
        RobotHostConfig(run=tmp_path, host_id=host, robots=(RobotSpec(robot_id=robot),))
