"""What every robot must do, simulated or real. A new robot joins by adding its factory to ROBOTS."""

import threading
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import pytest

from lwd.errors import ActionRejected, RobotFault
from lwd.robots.gym import GymRobot, GymSettings
from lwd.robots.protocol import ObservingRobot, Robot
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import TASKS, make_robot
from lwd.types import Outcome, Source, Task

REACH = Task(
    name="reach", instructions=("reach it",), heldout_instructions=(), sub_steps=("done",), time_limit=30,
    long_horizon=False,
)  # fmt: skip


class Reached(gymnasium.Wrapper):
    """Gymnasium's two-joint arm, which does not say itself whether it is there."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        distance_m = float(np.linalg.norm(observation[8:10]))
        return observation, reward, terminated, truncated, {**info, "is_success": distance_m < 0.01}


def gym_arm() -> GymRobot:
    return GymRobot(lambda task: Reached(gymnasium.make("Reacher-v5")), (REACH,), GymSettings(name="reacher"))


ROBOTS: dict[str, tuple[Callable[[], Robot], tuple[Task, ...]]] = {
    "scene": (lambda: make_robot(), tuple(TASKS.values())),
    "scene-shifted": (lambda: make_robot(world="shifted"), tuple(TASKS.values())),
    "gym": (gym_arm, (REACH,)),
    "scene-pixels": (lambda: make_robot("ogbench-scene-pixels"), (TASKS["press_button"],)),
}


@pytest.fixture(scope="module", params=list(ROBOTS))
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Robot, tuple[Task, ...]]]:
    factory, tasks = ROBOTS[request.param]
    robot = factory()
    yield robot, tasks
    robot.close()


def actions(robot: Robot, count: int) -> np.ndarray:
    embodiment = robot.embodiment
    draw = np.random.default_rng(0).uniform(
        embodiment.action_low, embodiment.action_high, (count, embodiment.action_size)
    )
    return draw.astype(np.float32)


def is_delayed(robot: Robot) -> bool:
    """Whether an action is executed later than it is sent: a hold drops those that are on their way."""
    world = getattr(robot, "world", None)
    return world is not None and world.action_latency_steps > 0


def test_observations_fit_the_embodiment(case: tuple[Robot, tuple[Task, ...]]) -> None:
    robot, tasks = case
    observation = robot.reset(tasks[0], 0)
    result = robot.step(actions(robot, 1)[0])
    for seen in (observation, result.observation):
        assert seen.state.shape == (robot.embodiment.state_size,)
        assert seen.state.dtype == np.float32
        assert np.isfinite(seen.state).all()
        assert {name: image.shape[:2] for name, image in seen.images.items()} == dict(robot.embodiment.cameras)
    assert len(result.sub_step_scores) == len(tasks[0].sub_steps)


def test_the_same_seed_gives_the_same_episode_and_another_seed_another_start(
    case: tuple[Robot, tuple[Task, ...]],
) -> None:
    robot, tasks = case
    for task in tasks:
        runs, starts = [], []
        for seed in (7, 7, 8):
            start = robot.reset(task, seed)
            # A camera alone may see what a seed changes: proprioception does not know where objects lie.
            starts.append([start.state, *start.images.values()])
            states = [start.state]
            states += [robot.step(action).observation.state for action in actions(robot, 3)]
            runs.append(np.stack(states))
        np.testing.assert_array_equal(runs[0], runs[1])
        assert not all(np.array_equal(one, other) for one, other in zip(starts[0], starts[2], strict=True))


def session_of(robot: Robot, task: Task, seed: int) -> EpisodeSession:
    return EpisodeSession(
        robot, task, "go", seed=seed, robot_id="r", source=Source.ROLLOUT, policy_version=0, world="nominal"
    )


def test_actions_beyond_the_limits_are_clipped(case: tuple[Robot, tuple[Task, ...]]) -> None:
    robot, tasks = case
    high = np.array(robot.embodiment.action_high, np.float32)
    ends = []
    for action in (high, 3 * high):
        session = session_of(robot, tasks[0], 1)
        session.load_chunk(action[None])
        session.step()
        ends.append(session.observation.state)
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_actions_are_refused_and_the_robot_stays(case: tuple[Robot, tuple[Task, ...]], bad: float) -> None:
    robot, tasks = case
    results = []
    for try_bad in (False, True):
        session = session_of(robot, tasks[0], 2)
        if try_bad:
            chunk = actions(robot, 1)
            chunk[0, 1] = bad
            with pytest.raises(ActionRejected, match="not finite"):
                session.load_chunk(chunk)
        session.load_chunk(actions(robot, 1))
        session.step()
        results.append(session.observation.state)
    np.testing.assert_array_equal(*results)


def test_actions_of_the_wrong_shape_are_refused(case: tuple[Robot, tuple[Task, ...]]) -> None:
    robot, tasks = case
    session = session_of(robot, tasks[0], 0)
    with pytest.raises(ActionRejected, match="shape"):
        session.load_chunk(np.zeros((1, robot.embodiment.action_size + 1), np.float32))
    assert session.needs_chunk


def test_a_held_robot_ends_no_episode_and_goes_on_from_where_it_stood(case: tuple[Robot, tuple[Task, ...]]) -> None:
    robot, tasks = case
    ends = []
    for holds in (0, 3):
        robot.reset(tasks[0], 4)
        first, second = actions(robot, 2)
        robot.step(first)
        for _ in range(holds):
            # As a watchdog does: from another thread.
            other = threading.Thread(target=robot.hold)
            other.start()
            other.join()
        ends.append(robot.step(second).observation.state)
    # A real one goes on closing its gripper.
    if not is_delayed(robot) and not isinstance(robot, ObservingRobot):
        np.testing.assert_array_equal(*ends)


def test_a_robot_can_be_held_before_its_first_episode_and_after_its_last(
    case: tuple[Robot, tuple[Task, ...]],
) -> None:
    robot, tasks = case
    robot.hold()
    robot.reset(tasks[0], 0)
    robot.hold()


def test_the_episode_ends_at_the_time_limit_and_not_before(case: tuple[Robot, tuple[Task, ...]]) -> None:
    robot, tasks = case
    task = min(tasks, key=lambda t: t.time_limit)
    robot.reset(task, 0)
    still = np.zeros(robot.embodiment.action_size, np.float32)
    outcomes = [robot.step(still).outcome for _ in range(task.time_limit)]
    assert outcomes[:-1] == [None] * (task.time_limit - 1)
    assert outcomes[-1] is Outcome.TIME_LIMIT
    with pytest.raises(RobotFault, match="reset"):
        robot.step(still)
