"""What a session does with a robot that is held: it looks again, and labels without a jump."""

import numpy as np

from lwd.driving import Driving, drive_axis
from lwd.robots.session import EpisodeSession
from lwd.types import HOLD, Command, Controller, Intent, Outcome, Source

from ...point_mass import TASKS, PointMassRobot


class Elsewhere(PointMassRobot):
    """Its position is its action, and moves while nobody steps."""

    def __init__(self, *, measured: bool) -> None:
        super().__init__()
        axes = tuple(
            drive_axis(label, -1, 1, absolute=True, measured=number if measured else None)
            for number, label in enumerate("xy")
        )
        self.driving = Driving(control_hz=20, axes=axes)

    def observe(self):
        self._position = np.array([0.25, -0.5])
        return self._observe()


class Person:
    wish: Command = HOLD

    def begin(self, view, seed) -> None: ...

    def poll(self, view) -> Command:
        return self.wish


def held(robot) -> tuple[EpisodeSession, Person]:
    person = Person()
    session = EpisodeSession(
        robot, TASKS[0], "go", seed=0, robot_id="r", source=Source.FLEET, policy_version=1, world="nominal",
        operator=person,
    )  # fmt: skip
    assert session.held
    return session, person


def test_what_acts_after_a_hold_begins_from_what_is_seen_then():
    session, person = held(Elsewhere(measured=True))
    for _ in range(3):
        session.look()
    np.testing.assert_array_equal(session.observation.state[:2], [0.25, -0.5])
    person.wish = Command(intent=Intent.TAKE_OVER, action=np.zeros(2, np.float32))
    session.step()
    episode = session.truncate()
    assert episode.states_TS.shape == (2, 6)
    np.testing.assert_array_equal(episode.states_TS[0, :2], [0.25, -0.5])


def test_a_robot_that_cannot_be_observed_between_steps_stays_as_it_was_seen():
    session, _ = held(PointMassRobot())
    before = session.observation
    session.look()
    assert session.observation is before


def test_a_label_before_the_first_step_makes_an_arm_stay_where_it_is():
    session, person = held(Elsewhere(measured=True))
    session.look()
    person.wish = Command(intent=Intent.LABEL, outcome=Outcome.FAILURE)
    session.step()
    assert session.outcome is Outcome.FAILURE
    episode = session.episode()
    np.testing.assert_array_equal(episode.actions_TA, [[0.25, -0.5]])
    assert list(episode.controllers_T) == [Controller.HUMAN]


def test_nothing_is_kept_of_a_labelled_arm_of_which_nobody_knows_where_it_is():
    session, person = held(Elsewhere(measured=False))
    person.wish = Command(intent=Intent.LABEL, outcome=Outcome.FAILURE)
    session.step()
    assert (session.discarded, session.done, session.steps) == (True, False, 0)
