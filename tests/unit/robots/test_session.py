"""Who acts, what is recorded, how an episode ends."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lwd.errors import ActionRejected, RobotFault, ShapeError
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import TASKS, make_robot
from lwd.robots.sim.robot import SceneRobot
from lwd.types import OBSERVE, Command, Controller, Intent, Outcome, RobotView, Source

from ... import point_mass

TASK = TASKS["press_button"]
CHUNK = np.full((5, 5), 0.1, np.float32)


@pytest.fixture(scope="module")
def robot() -> SceneRobot:
    return make_robot()


class Scripted:
    """An operator that follows a function of the step."""

    def __init__(self, command: Callable[[int], Command]) -> None:
        self._command = command
        self.began_with: list[int] = []
        self.polled: list[int] = []

    def begin(self, view: RobotView, seed: int) -> None:
        self.began_with.append(seed)

    def poll(self, view: RobotView) -> Command:
        self.polled.append(view.step)
        return self._command(view.step)


def take_over(value: float = -0.3) -> Command:
    return Command(intent=Intent.TAKE_OVER, action=np.full(5, value, np.float32))


def start(robot: SceneRobot, operator: Scripted | None = None, seed: int = 0) -> EpisodeSession:
    return EpisodeSession(
        robot,
        TASK,
        TASK.instructions[0],
        seed=seed,
        robot_id="robot-1",
        source=Source.FLEET,
        policy_version=7,
        world="nominal",
        operator=operator,
    )


def test_a_policy_episode_replans_after_each_chunk_and_ends_at_the_time_limit(robot: SceneRobot) -> None:
    session = start(robot)
    chunks = 0
    while not session.done:
        if session.needs_chunk:
            session.load_chunk(CHUNK)
            chunks += 1
        session.step()
    episode = session.episode()
    assert chunks == TASK.time_limit // len(CHUNK)
    assert episode.steps == TASK.time_limit
    assert episode.info.outcome is Outcome.TIME_LIMIT
    assert episode.states_TS.shape == (TASK.time_limit + 1, robot.embodiment.state_size)
    assert (episode.controllers_T == Controller.POLICY).all()
    assert not session.needs_chunk
    with pytest.raises(RobotFault, match="is over"):
        session.step()


def test_states_are_the_observations_before_each_action(robot: SceneRobot) -> None:
    session = start(robot)
    session.load_chunk(CHUNK)
    seen = [session.observation.state.copy()]
    for _ in range(3):
        session.step()
        seen.append(session.observation.state.copy())
    np.testing.assert_array_equal(session.truncate().states_TS, np.stack(seen))


def test_a_take_over_is_recorded_as_executed_and_drops_the_queued_chunk(robot: SceneRobot) -> None:
    operator = Scripted(lambda step: take_over() if step in (2, 3) else OBSERVE)
    session = start(robot, operator)
    session.load_chunk(CHUNK)
    for _ in range(4):
        assert not session.needs_chunk
        session.step()
    assert session.human_acts
    # Released: what was planned before the human acted must not be executed any more.
    assert session.needs_chunk
    with pytest.raises(RobotFault, match="load_chunk"):
        session.step()
    episode = session.truncate()
    assert episode.controllers_T.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(episode.actions_TA[2], np.full(5, -0.3, np.float32))
    assert operator.began_with == [0]
    assert operator.polled == [0, 1, 2, 3, 4]


def test_recorded_actions_are_those_within_the_limits(robot: SceneRobot) -> None:
    session = start(robot)
    session.load_chunk(np.full((1, 5), 4.0, np.float32))
    session.step()
    np.testing.assert_array_equal(session.truncate().actions_TA, np.ones((1, 5), np.float32))


def test_a_label_ends_the_episode_with_its_outcome(robot: SceneRobot) -> None:
    label = Command(intent=Intent.LABEL, outcome=Outcome.FAILURE)
    session = start(robot, Scripted(lambda step: label if step == 2 else OBSERVE))
    session.load_chunk(CHUNK)
    for _ in range(3):
        session.step()
    assert session.episode().info.outcome is Outcome.FAILURE
    assert session.episode().steps == 2


def test_a_label_before_the_first_step_waits_for_one_held_step(robot: SceneRobot) -> None:
    label = Command(intent=Intent.LABEL, outcome=Outcome.TRUNCATED)
    session = start(robot, Scripted(lambda step: label))
    session.step()
    episode = session.episode()
    assert episode.info.outcome is Outcome.TRUNCATED
    assert episode.steps == 1
    assert not episode.actions_TA.any()


def test_non_finite_and_misshapen_chunks_are_refused(robot: SceneRobot) -> None:
    session = start(robot)
    bad = CHUNK.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ActionRejected, match="chunk is not finite"):
        session.load_chunk(bad)
    for shape in ((5,), (0, 5), (5, 4)):
        with pytest.raises(ActionRejected, match="chunk has shape"):
            session.load_chunk(np.zeros(shape, np.float32))
    assert session.needs_chunk


def test_a_non_finite_human_action_is_refused_and_not_recorded(robot: SceneRobot) -> None:
    session = start(robot, Scripted(lambda step: take_over(float("nan")) if step == 1 else OBSERVE))
    session.load_chunk(CHUNK)
    session.step()
    with pytest.raises(ActionRejected):
        session.step()
    assert session.truncate().steps == 1


def test_truncate_before_the_end_is_unknown_and_needs_a_step(robot: SceneRobot) -> None:
    session = start(robot)
    with pytest.raises(RobotFault, match="no steps"):
        session.truncate()
    session.load_chunk(CHUNK)
    session.step()
    with pytest.raises(RobotFault, match="still runs"):
        session.episode()
    assert session.truncate().info.outcome is Outcome.TRUNCATED


def test_ids_differ_between_sessions_of_one_seed(robot: SceneRobot) -> None:
    assert start(robot).episode_id != start(robot).episode_id


def test_privileged_state_is_read_only_when_somebody_looks(robot: SceneRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    session = start(robot, Scripted(lambda step: OBSERVE))
    reads: list[int] = []
    original = robot.privileged
    monkeypatch.setattr(robot, "privileged", lambda: reads.append(1) or original())
    session.load_chunk(CHUNK)
    session.step()
    assert not reads
    assert "privileged/drawer_pos" in session.view.privileged
    assert reads == [1]


def test_pixel_episodes_carry_one_more_frame_than_actions() -> None:
    robot = make_robot("ogbench-scene-pixels")
    session = start(robot)
    session.load_chunk(CHUNK)
    session.step()
    episode = session.truncate()
    robot.close()
    frames = episode.images["front"]
    assert len(frames) == 2
    with Image.open(io.BytesIO(frames[1])) as image:
        np.testing.assert_array_equal(np.asarray(image), session.observation.images["front"])


def joined(old, new, executed: int) -> list[float]:
    """Queue `old`, execute `executed` of it, join `new`; return what will be executed."""
    session = EpisodeSession(
        point_mass.PointMassRobot(),
        point_mass.TASKS[1],
        "go",
        seed=0,
        robot_id="r",
        source=Source.FLEET,
        policy_version=1,
        world="w",
    )
    session.load_chunk(np.repeat(np.array(old, np.float32)[:, None], 2, axis=1))
    for _ in range(executed):
        session.step()
    session.join_chunk(np.repeat(np.array(new, np.float32)[:, None], 2, axis=1), executed=executed)
    count = session.queued
    for _ in range(count):
        session.step()
    return session.truncate().actions_TA[executed:, 0].tolist()


def test_a_joined_chunk_begins_where_the_robot_is_and_the_old_one_fades():
    # Three old actions are left; a quarter, half, three quarters of the way, then the new chunk alone.
    assert joined([0, 0, 0, 0, 0], [1] * 6, executed=2) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert joined([0.2], [0.1, 0.3, 0.5], executed=1) == pytest.approx([0.3, 0.5])
    assert joined([0.4, 0.4, 0.4], [0.4, 0.4], executed=1) == pytest.approx([0.4])
    with pytest.raises(ShapeError, match="all 2 actions of the chunk are over"):
        joined([0, 0, 0], [1, 1], executed=2)
    with pytest.raises(ActionRejected):
        joined([0, 0, 0], [1, np.nan], executed=1)
