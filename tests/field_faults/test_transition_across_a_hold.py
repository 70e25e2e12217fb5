"""What changes while a person holds the robot is nobody's doing: no transition reaches across the hold (A8)."""

from dataclasses import replace

import numpy as np
import pytest

from lwd.data.arena import ReplayArena
from lwd.data.episode_file import read_episode, write_episode
from lwd.data.sampling import BatchSampler, Stratum
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import EpisodeRejected
from lwd.fleet.describing import describe
from lwd.robots.session import EpisodeSession
from lwd.types import HOLD, OBSERVE, Command, Controller, Episode, Intent, Outcome, Source

from ..point_mass import EMBODIMENT, TASKS, PointMassRobot

GAMMA = 0.9
MOVED = np.array([0.75, -0.75])


class MovedByHand(PointMassRobot):
    """Somebody pushes it away while nobody steps."""

    def observe(self):
        self._position = MOVED.copy()
        return self._observe()


class Person:
    wish: Command = OBSERVE

    def begin(self, view, seed) -> None: ...

    def poll(self, view) -> Command:
        return self.wish


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def begun(clock: Clock) -> tuple[EpisodeSession, Person]:
    person = Person()
    session = EpisodeSession(
        MovedByHand(), TASKS[0], "go", seed=0, robot_id="r", source=Source.FLEET, policy_version=1, world="nominal",
        operator=person, clock=clock,
    )  # fmt: skip
    return session, person


def act(session: EpisodeSession, person: Person, clock: Clock, steps: int) -> None:
    person.wish = Command(intent=Intent.TAKE_OVER, action=np.full(2, 0.1, np.float32), operator_id="ann")
    for _ in range(steps):
        session.step()
        clock.now_s += 0.05


def held_after_three_steps() -> tuple[Episode, np.ndarray]:
    """Three steps, a hold in which the robot is moved, four steps, success; and what was seen before the hold."""
    clock = Clock()
    session, person = begun(clock)
    act(session, person, clock, 3)
    seen_before = session.observation.state.copy()
    person.wish = HOLD
    assert session.held
    for _ in range(4):
        clock.now_s += 1
        session.look()
    act(session, person, clock, 4)
    person.wish = Command(intent=Intent.LABEL, outcome=Outcome.SUCCESS)
    session.step()
    assert session.steps == 7
    return session.episode(), seen_before


def arena_of(episode: Episode) -> ReplayArena:
    arena = ReplayArena(EMBODIMENT, horizon=5, gamma=GAMMA, embed=lambda text: np.zeros(1), initial_rows=4)
    arena.add([episode])
    return arena


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_window_before_a_hold_ends_there_and_bootstraps_from_what_was_seen_there(n_step: int) -> None:
    episode, seen_before = held_after_three_steps()
    batch = arena_of(episode).gather(np.array([1]), n_step)
    np.testing.assert_array_equal(batch.bootstrap_observation.state_BS[0], seen_before)
    assert batch.action_mask_BH.tolist() == [[True, True, False, False, False]]
    assert batch.human_BH.tolist() == batch.imitable_BH.tolist() == batch.action_mask_BH.tolist()
    assert batch.bootstrap_discount_B.item() == pytest.approx(GAMMA**2)
    assert batch.return_B.item() == 0
    # Six steps were made from there to the success; the hold is none.
    assert batch.outcome_return_B.item() == pytest.approx(GAMMA**5)


def test_what_acts_after_a_hold_begins_at_what_is_seen_then() -> None:
    episode, _ = held_after_three_steps()
    view = arena_of(episode)
    after = int(np.flatnonzero(episode.controllers_T == Controller.NOBODY)[0]) + 1
    batch = view.gather(np.array([after]))
    np.testing.assert_allclose(batch.observation.state_BS[0, :2], MOVED, atol=1e-6)
    assert batch.action_mask_BH.sum() == 4
    assert (batch.return_B.item(), batch.bootstrap_discount_B.item()) == (pytest.approx(GAMMA**3), 0)


def test_no_transition_of_a_held_episode_moves_further_than_a_step_can() -> None:
    episode, _ = held_after_three_steps()
    batch = BatchSampler(arena_of(episode), [Stratum()], batch_size=200, seed=0).batch(0)
    assert len(set(map(tuple, batch.observation.state_BS.tolist()))) == 7
    moved = batch.bootstrap_observation.state_BS[:, :2] - batch.observation.state_BS[:, :2]
    assert moved.abs().max() < 0.2


def test_a_held_episode_survives_its_file_and_counts_the_steps_that_were_made() -> None:
    episode, _ = held_after_three_steps()
    data = write_episode(episode)
    again = validate_episode(read_episode(data), EpisodeLimits(embodiment=EMBODIMENT, time_limits={"near": 7}))
    assert write_episode(again) == data
    assert (again.steps, again.acted_steps) == (8, 7)
    entry = describe(again, data_bytes=len(data), sha256="0" * 64, uploaded_at_s=0)
    assert (entry.steps, entry.human_steps, entry.interventions) == (7, 7, 1)


def test_a_stall_between_two_steps_of_a_person_is_a_gap() -> None:
    """The process was stopped: the person's next action is an answer to what is there then."""
    clock = Clock()
    session, person = begun(clock)
    act(session, person, clock, 2)
    seen_before = session.observation.state.copy()
    clock.now_s += 30
    session.replan()
    act(session, person, clock, 2)
    episode = session.truncate()
    assert episode.controllers_T.tolist() == [1, 1, 2, 1, 1]
    np.testing.assert_array_equal(episode.states_TS[2], seen_before)
    np.testing.assert_allclose(episode.states_TS[3, :2], MOVED, atol=1e-6)


def test_an_episode_without_a_hold_has_no_gap() -> None:
    clock = Clock()
    session, person = begun(clock)
    act(session, person, clock, 5)
    assert session.truncate().controllers_T.tolist() == [1] * 5


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_fleet_episode_with_a_gap_that_no_hold_makes_is_refused(at: int) -> None:
    """At its beginning, beside another gap, at its end: a robot could send any number of rows that way."""
    episode, _ = held_after_three_steps()
    controllers_T = episode.controllers_T.copy()
    controllers_T[[at, 3 if at != 3 else 4]] = Controller.NOBODY
    with pytest.raises(EpisodeRejected, match="controllers is 2 at step"):
        validate_episode(replace(episode, controllers_T=controllers_T), EpisodeLimits(time_limits={"near": 7}))
