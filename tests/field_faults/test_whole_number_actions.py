"""Executed [1, 0], recorded [1.91, .81]; truncated, so that the largest value was hardly ever reached (row 12)."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lwd.errors import ConfigError
from lwd.robots.session import EpisodeSession
from lwd.types import Source

from .environments import TASK, Told, robot_of


def recorded(environment: gymnasium.Env, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what was recorded of some actions, and what the environment was sent."""
    robot = robot_of(environment)
    session = EpisodeSession(
        robot, TASK, "count", seed=0, robot_id="r", source=Source.ROLLOUT, policy_version=0, world="nominal"
    )
    for action in actions:
        session.load_chunk(action[None])
        session.step()
    inner = environment.unwrapped
    assert isinstance(inner, Told)
    return session.truncate().actions_TA, np.stack(inner.sent)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8])
def test_what_was_executed_is_recorded(dtype):
    space = spaces.Box(np.array([0, 0], dtype), np.array([2, 3], dtype), dtype=dtype)
    kept, sent = recorded(Told(space), np.array([[1.91, 0.81], [-0.4, 9.0], [0.5, 1.5]], np.float32))
    assert sent.dtype == dtype
    # The nearest, halves upwards, within the space.
    np.testing.assert_array_equal(sent, [[2, 1], [0, 3], [1, 2]])
    np.testing.assert_array_equal(kept, sent)


def test_every_value_has_the_same_share_of_the_range():
    environment = Told(spaces.Box(-1, 2, (1,), np.int64))
    robot = robot_of(environment)
    low, high = robot.embodiment.action_low[0], robot.embodiment.action_high[0]
    assert (low, high) == (-1.5, 2.5)
    for value in np.linspace(low, high, 4000, endpoint=False, dtype=np.float32):
        environment.sent.append(robot._opened(TASK).actions.sent(np.array([value], np.float32))[0])
    assert np.unique(environment.sent, return_counts=True)[1].tolist() == [1000] * 4


def test_what_a_space_of_other_limits_or_numbers_clips_is_recorded():
    # A float32 of 0.1 is above a float64 of 0.1: an environment that checks its actions would refuse it.
    high = np.array([0.1, 0.5])
    environment = Told(spaces.Box(-high, high, dtype=np.float64))
    kept, sent = recorded(environment, np.array([[0.1, 5.0]], np.float32))
    assert environment.action_space.contains(sent[0])
    np.testing.assert_array_equal(kept, np.array([[0.1, 0.5]], np.float32))


def test_the_limits_behind_clip_action_are_the_robots():
    environment = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.ClipAction(Told()), 100)
    assert robot_of(environment).embodiment.action_high == (1.0, 1.0)
    kept, sent = recorded(environment, np.array([[0.25, 7.0]], np.float32))
    np.testing.assert_array_equal(kept, [[0.25, 1.0]])
    np.testing.assert_array_equal(sent, kept)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), "Choices .* have no order"),
        (spaces.MultiDiscrete([3, 2]), "Choices .* have no order"),
        (spaces.Box(-(2**40), 2**40, (1,), np.int64), "whole numbers cannot be told apart"),
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), "are not bounded"),
    ],
)
def test_actions_that_no_policy_can_say_are_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        robot_of(Told(space))
