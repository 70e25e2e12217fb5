"""A robot that moves to its start under the hands of whoever stands there, in a running host."""

import threading
import time
from collections.abc import Callable

from lwd.errors import ResetInterrupted
from lwd.fleet.nats_server import NatsServer

from ... import driven_fleet


class Homing(driven_fleet.PosedPointMass):
    """Takes two seconds to its start, and notes each move on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupted: Callable[[], bool] = lambda: False
        self.moves, self.arrived = 0, 0

    def reset(self, task, seed):
        for _ in range(100):
            if self.interrupted():
                raise ResetInterrupted("held on the way")
            self.moves += 1
            time.sleep(0.02)
        self.arrived += 1
        return super().reset(task, seed)

    def observe(self):
        return self._observe()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_robot_that_is_taken_over_on_its_way_stops_there_and_goes_on_when_told(tmp_path):
    robot = Homing()
    with (
        NatsServer(tmp_path / "nats") as server,
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=lambda: robot) as fleet,
    ):
        remote, stop = fleet.remotes["robot-0"], threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            wait_for(lambda: robot.moves > 5)
            remote.take("ada", "tab")
            time.sleep(0.2)
            moves = robot.moves
            assert robot.holds > 0
            time.sleep(0.5)
            assert (robot.moves, robot.arrived, robot.closed) == (moves, 0, False)
            remote.apply("resume", remote.view().lease)
            wait_for(lambda: robot.moves > moves + 5)
            remote.apply("pause", remote.view().lease)
            time.sleep(0.2)
            moves = robot.moves
            time.sleep(0.5)
            assert (robot.moves, robot.arrived) == (moves, 0)
            remote.apply("release", remote.view().lease)
            wait_for(lambda: robot.arrived == 1 and fleet.steps_of("robot-0") > 0)
            # Nothing of it counts as an episode or as a fault.
            assert fleet.network.status.episodes == 0
        finally:
            stop.set()
            thread.join()


def test_a_host_that_is_told_to_stop_does_not_wait_until_its_robot_is_home(tmp_path):
    robot = Homing()
    with (
        NatsServer(tmp_path / "nats") as server,
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=lambda: robot) as fleet,
    ):
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        wait_for(lambda: robot.moves > 5)
        stop.set()
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert (robot.arrived, robot.holds > 0) == (0, True)
