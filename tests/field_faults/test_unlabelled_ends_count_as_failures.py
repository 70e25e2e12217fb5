"""A robot without a success test counts every end at the time limit as failed: its host says so, once, at its start."""

import logging
import os
import signal
import socket
import threading

import pytest

from lwd.errors import PortInUse
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.learner.checkpoint import Progress
from lwd.recipes.fleet_up import FleetUp, run_fleet
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.protocol import JudgingRobot

from .. import point_mass

WAYS = ("events` or `teleoperator` of --lerobot-config", "a person at the console", "lwd robot --gym ID --success KEY")


class Arm(point_mass.PointMassRobot):
    """Nobody tells it whether it reached the goal."""

    tells_success = False


def host_of(robot: type, run, caplog) -> list[str]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    end = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    end.start()
    try:
        with caplog.at_level(logging.WARNING):
            run_robot_host(
                RobotHostConfig(
                    run=run,
                    host_id="host",
                    robots=(RobotSpec(robot_id="arm-0"), RobotSpec(robot_id="arm-1")),
                    bus=BusConfig(urls=("nats://127.0.0.1:1",)),
                ),
                make=lambda _: (robot(), None),
                tasks=point_mass.TASKS,
                load=point_mass.load_policy,
            )
    finally:
        end.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return [record.getMessage() for record in caplog.records if "success" in record.getMessage()]


def test_one_warning_names_the_three_ways(tmp_path, caplog):
    assert isinstance(Arm(), JudgingRobot)
    (said,) = host_of(Arm, tmp_path, caplog)
    assert said.startswith("robots arm-0, arm-1 cannot tell that a task is done")
    assert "time limit without a label counts as failed" in said
    for way in WAYS:
        assert way in said


def test_a_robot_with_a_success_test_is_not_warned_about(tmp_path, caplog):
    assert host_of(point_mass.PointMassRobot, tmp_path, caplog) == []


@pytest.mark.parametrize(("words", "times"), [(("--lerobot", "so101_follower"), 1), (("--gym", "X-v0"), 0)])
def test_a_fleet_says_it_where_the_hosts_logs_are_not_read(words, times, tmp_path):
    run = RunDirectory(tmp_path)
    for stage in ("sft", "offline"):
        progress = Progress(stage=stage, update=1, snapshot=1, policy_version=0, finished=True)
        run.checkpoints(stage).save(progress, policy=b"p", value=b"v", state={}, config={})
    events: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fleet = FleetUp(budget="smoke", robots=1, env_steps=1, world="nominal", robot_options=words, nats_port=port)
        with pytest.raises(PortInUse):  # it gets no further
            run_fleet(run, fleet, on_event=events.append)
    assert sum("counts as failed" in event for event in events) == times
