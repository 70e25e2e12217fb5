"""A real robot executes no plan from a world that was; a simulated one waits for its plan."""

import numpy as np
import pytest

from lwd.robots.plan_age import FIRST_INFERENCE_S, InferenceTimes
from lwd.robots.session import EpisodeSession
from lwd.types import HOLD, OBSERVE, Command, Intent, Outcome, Source, StepResult

from ... import point_mass
from ...point_mass import TASKS, PointMassRobot

PERIOD_S = 1 / point_mass.EMBODIMENT.control_hz
CHUNK = np.full((8, 2), 0.5, np.float32)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class SimulatedRobot(PointMassRobot):
    """A step takes a control period, or longer where the process is stopped."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.stopped_s, self.looks = clock, 0.0, 0
        self.actions: list[float] = []

    def step(self, action) -> StepResult:
        self.actions.append(float(action[0]))
        self.clock.now_s += PERIOD_S + self.stopped_s
        self.stopped_s = 0.0
        return super().step(action)


class RealRobot(SimulatedRobot):
    """Its world moves on between two steps."""

    def observe(self):
        self.looks += 1
        return self._observe()


class Person:
    command: Command = OBSERVE

    def begin(self, view, seed) -> None: ...

    def poll(self, view) -> Command:
        return self.command


@pytest.fixture
def clock() -> Clock:
    return Clock()


def start(robot, operator=None) -> EpisodeSession:
    return EpisodeSession(
        robot, TASKS[1], "go", seed=0, robot_id="r", source=Source.FLEET, policy_version=1, world="w",
        operator=operator, clock=robot.clock,
    )  # fmt: skip


def test_a_plan_is_executed_to_its_end_where_nothing_stands_still(clock):
    robot = RealRobot(clock)
    session = start(robot)
    clock.now_s += 0.3  # the policy took its time
    assert session.load_chunk(CHUNK, inference_s=0.3)
    while session.queued:
        clock.now_s += 0.5 * PERIOD_S  # a busy machine
        session.step()
    assert (len(robot.actions), session.old_plans, robot.holds) == (8, 0, 0)


def test_the_rest_of_a_plan_is_dropped_after_a_freeze_between_two_steps(clock):
    robot = RealRobot(clock)
    session = start(robot)
    session.load_chunk(CHUNK)
    session.step()
    clock.now_s += 20
    session.step()
    assert (len(robot.actions), session.queued, session.old_plans, robot.holds) == (1, 0, 1, 1)
    assert session.needs_chunk
    session.look_again()
    assert (robot.looks, session.observed_s) == (1, clock.now_s)
    assert session.load_chunk(CHUNK)
    session.step()
    assert len(robot.actions) == 2
    assert (session.truncate().acted_steps, session.truncate().steps) == (2, 3)  # and the gap


def test_the_rest_of_a_plan_is_dropped_after_a_freeze_within_a_step(clock):
    """What was observed at its end is new, but the plan is not."""
    robot = RealRobot(clock)
    session = start(robot)
    session.load_chunk(CHUNK)
    robot.stopped_s = 20
    session.step()
    session.step()
    assert (len(robot.actions), session.queued, session.old_plans) == (1, 0, 1)


def test_a_plan_may_begin_two_periods_and_the_usual_inference_after_its_observation(clock):
    for late_s, begins in ((2 * PERIOD_S - 0.001, True), (2 * PERIOD_S + 0.001, False), (20, False)):
        robot = RealRobot(clock)
        session = start(robot)
        clock.now_s += 0.1 + late_s
        assert session.load_chunk(CHUNK, inference_s=0.1) is begins
        assert (session.needs_chunk, robot.holds) == (not begins, int(not begins))


def test_a_plan_that_was_in_time_and_then_waited_does_not_begin(clock):
    robot = RealRobot(clock)
    session = start(robot)
    session.load_chunk(CHUNK, inference_s=0.1)
    clock.now_s += 20
    session.step()
    assert (robot.actions, session.needs_chunk) == ([], True)


def test_a_prediction_that_comes_too_late_leaves_the_present_plan(clock):
    robot = RealRobot(clock)
    session = start(robot)
    observed_s = session.observed_s
    session.load_chunk(CHUNK)
    for _ in range(4):
        session.step()
    assert not session.join_chunk(-CHUNK, executed=4, observed_s=observed_s, inference_s=0.05)
    session.step()
    assert robot.actions[-1] == 0.5


def test_what_a_person_wanted_before_a_freeze_is_asked_again(clock):
    robot, person = RealRobot(clock), Person()
    session = start(robot, person)
    person.command = Command(intent=Intent.TAKE_OVER, action=np.ones(2, np.float32))
    assert not session.held
    clock.now_s += 20
    person.command = HOLD
    session.step()
    assert (robot.actions, session.held) == ([], True)


def test_a_label_from_before_a_freeze_counts(clock):
    robot, person = RealRobot(clock), Person()
    session = start(robot, person)
    session.load_chunk(CHUNK)
    session.step()
    person.command = Command(intent=Intent.LABEL, outcome=Outcome.SUCCESS)
    assert not session.held
    clock.now_s += 20
    person.command = OBSERVE
    session.step()
    assert session.outcome is Outcome.SUCCESS


def test_a_simulated_robot_waits_for_its_plan_however_long_it_takes(clock):
    robot = SimulatedRobot(clock)
    session = start(robot)
    clock.now_s += 20
    session.load_chunk(CHUNK, inference_s=0.0)
    while session.queued:
        clock.now_s += 20
        session.step()
    assert (len(robot.actions), session.old_plans) == (8, 0)


def test_one_call_in_which_all_stood_still_makes_no_usual_time():
    times = InferenceTimes()
    assert times.usual_s == FIRST_INFERENCE_S
    for seconds in (0.1, 20.0, 0.1, 0.12, 0.1):
        times.note(seconds)
    assert times.usual_s == pytest.approx(0.1)
    for _ in range(10):
        times.note(3.0)  # a slow policy is slow, and not frozen
    assert times.usual_s == 3.0
