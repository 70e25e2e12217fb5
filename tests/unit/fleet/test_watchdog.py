"""The watchdog: a loop that stands is seen, robots hold, and nothing that was planned before is executed."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lwd.errors import RobotFault, RobotStopped
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.watchdog import SIMULATED_S, Watchdog
from lwd.types import FloatArray, Observation, StepResult

from ... import point_mass

ACTION = np.array(point_mass.EMBODIMENT.action_high, np.float32)


class RealPointMass(point_mass.PointMassRobot):
    """Moves on when no step comes, as far as the watchdog can know."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.on_step: Callable[[], None] = lambda: None
        self.reset(point_mass.TASKS[0], 0)

    def step(self, action: FloatArray) -> StepResult:
        self.steps += 1
        self.on_step()
        return super().step(action)

    def observe(self) -> Observation:
        return self._observe()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Watched:
    def __init__(self, *robots: point_mass.PointMassRobot) -> None:
        self.clock, self.latch, self.alarms = Clock(), StopLatch(), []
        self.robots = {f"robot-{number}": robot for number, robot in enumerate(robots)}
        self.dog = Watchdog(self.robots, self.latch, on_alarm=self.alarms.append, clock=self.clock)

    def until(self, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline_s
            time.sleep(0.005)


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched(RealPointMass(), RealPointMass())
    watched.dog.start()
    yield watched
    watched.dog.close()


def step(watched: Watched, name: str = "robot-0") -> None:
    watched.dog.turn("robot.step", name)
    watched.dog.gates[name].step(ACTION)


def test_watchdog_holds_all_robots_and_names_the_policy_that_hangs(watched):
    step(watched)
    watched.dog.turn("policy.act")
    watched.clock.now_s += 3.2
    watched.until(lambda: all(robot.holds for robot in watched.robots.values()))
    watched.until(lambda: watched.alarms)
    assert watched.alarms == ["the robots' loop has not turned for 3.2 s (in policy.act)"]
    # It comes back: what it planned from is old, and the next command is refused until somebody has taken note.
    with pytest.raises(RobotStopped, match=r"3\.2 s \(in policy\.act\)"):
        step(watched)
    assert watched.robots["robot-0"].steps == 1
    assert "policy.act" in watched.dog.take_late()
    step(watched)
    assert watched.robots["robot-0"].steps == 2
    watched.until(lambda: watched.alarms[-1] == "")


def test_watchdog_names_the_robot_whose_step_hangs(watched):
    watched.dog.turn("robot.step", "robot-1")
    watched.clock.now_s += 1.5
    watched.until(lambda: watched.alarms)
    assert "(in robot.step of robot-1)" in watched.alarms[0]


def test_frozen_process_executes_nothing_of_its_old_plan():
    # The thread is not even started: it was frozen, too.
    watched = Watched(RealPointMass())
    step(watched)
    watched.clock.now_s += 20.0
    with pytest.raises(RobotStopped):
        step(watched)
    assert watched.robots["robot-0"].steps == 1
    assert watched.robots["robot-0"].holds == 1


def test_process_frozen_in_the_middle_of_a_step_holds_when_the_step_returns():
    watched = Watched(RealPointMass())

    def freeze() -> None:
        watched.clock.now_s += 20.0

    watched.robots["robot-0"].on_step = freeze
    step(watched)
    assert watched.robots["robot-0"].holds == 1
    with pytest.raises(RobotStopped):
        step(watched)
    assert watched.robots["robot-0"].steps == 1


def test_policy_that_is_slow_by_nature_is_not_stopped_each_time(watched):
    for _ in range(2):
        watched.dog.turn("policy.act")
        watched.clock.now_s += 2.0
        watched.dog.turn("the host")
        assert watched.dog.take_late()
    watched.dog.turn("policy.act")
    watched.clock.now_s += 2.0
    watched.dog.turn("the host")
    assert not watched.dog.take_late()
    # One that hangs is still seen.
    watched.dog.turn("policy.act")
    watched.clock.now_s += 10.1
    watched.dog.turn("the host")
    assert watched.dog.take_late()


def test_reset_may_take_its_time_and_the_others_hold_meanwhile(watched):
    watched.dog.turn("robot.reset", "robot-0")
    watched.clock.now_s += 5.0
    watched.until(lambda: watched.robots["robot-1"].holds)
    assert watched.robots["robot-0"].holds == 0
    watched.latch.stop("ada")
    watched.until(lambda: watched.robots["robot-0"].holds)


def test_simulated_robots_on_a_busy_machine_are_left_alone():
    watched = Watched(point_mass.PointMassRobot())
    watched.robots["robot-0"].reset(point_mass.TASKS[0], 0)
    step(watched)
    watched.clock.now_s += SIMULATED_S - 0.1
    step(watched)
    assert watched.robots["robot-0"].holds == 0


def test_stop_holds_again_each_second_and_at_once_after_another_stop(watched):
    watched.latch.stop("ada")
    watched.until(lambda: watched.robots["robot-0"].holds == 1)
    watched.clock.now_s += 1.1
    watched.until(lambda: watched.robots["robot-0"].holds == 2)
    watched.latch.release(tuple(stop.stop_id for stop in watched.latch.active), "ada")
    watched.latch.stop("bob")
    watched.until(lambda: watched.robots["robot-0"].holds >= 3)
    assert watched.alarms[-1] == "stopped by bob"


def test_robot_that_cannot_be_held_is_not_said_to_hold(watched):
    def fail() -> None:
        raise RobotFault("it does not answer: switch it off")

    watched.robots["robot-0"].hold = fail
    watched.latch.stop("ada")
    watched.until(lambda: watched.robots["robot-1"].holds)
    watched.until(lambda: watched.dog.holds()[0].error.startswith("it does not answer"))
    assert [robot.holds for robot in watched.dog.holds()] == [False, True]


def test_hold_that_hangs_delays_no_other_robot(watched):
    goes_on = threading.Event()
    watched.robots["robot-0"].hold = lambda: goes_on.wait(20)
    watched.latch.stop("ada")
    watched.until(lambda: watched.robots["robot-1"].holds)
    assert watched.dog.holds()[0].error == "its hold has not returned"
    goes_on.set()
    watched.until(lambda: watched.dog.holds()[0].holds)


def test_stop_while_a_command_is_on_its_way_ends_with_a_hold(watched):
    started, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        goes_on.wait(20)

    robot = watched.robots["robot-0"]
    robot.on_step = hang
    thread = threading.Thread(target=step, args=(watched,))
    thread.start()
    started.wait(20)
    watched.latch.stop("ada")
    watched.until(lambda: robot.holds == 1)
    assert not watched.dog.gates["robot-0"].holds
    goes_on.set()
    thread.join()
    assert robot.holds == 2
    assert watched.dog.gates["robot-0"].holds
