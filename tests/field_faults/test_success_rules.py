"""Success by reward, by termination, by a key under another name, by a function: all of them settable (row 27)."""

import numpy as np
import pytest

from lwd.errors import ConfigError, RobotFault
from lwd.robots.gym_success import success_test
from lwd.types import Outcome

from .environments import TASK, Told, robot_of

MODULE = """
class Cup:
    @staticmethod
    def is_full(observation, reward, terminated, truncated, info):
        return observation["state"][0] >= 3 and reward == 3 and not terminated and not truncated and info["level"] == 3

def full(observation, reward, terminated, truncated, info):
    return Cup.is_full(observation, reward, terminated, truncated, info)

def one(observation):
    return True

def silent(*everything):
    return None

def broken(*everything):
    raise KeyError("level")

THREE = 3
"""


@pytest.fixture
def cup(tmp_path, monkeypatch):
    (tmp_path / "cup_success.py").write_text(MODULE)
    (tmp_path / "cup_broken.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "cup_needs.py").write_text("import no_such_package_here")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("rule", "succeeds_at"),
    [
        ("reward>=3", 3),
        (" reward >= 2.5 ", 3),
        ("reward>=100", None),
        ("terminated", 4),
        ("level", 1),
        ("info:level", 1),
        ("final_info.task.done", 2),
        ("dotted.key", 3),
        ("cup_success:full", 3),
        ("cup_success:Cup.is_full", 3),
        ("cup_success.full", 3),
    ],
)
def test_the_rule_says_when_the_task_is_done(cup, rule, succeeds_at):
    def info(step: int) -> dict[str, object]:
        return {
            "level": step,
            "final_info": {"task": {"done": step >= 2}} if step >= 2 else None,
            "dotted.key": np.array([step >= 3]),
        }

    robot = robot_of(Told(info=info), rule)
    robot.reset(TASK, 0)
    outcomes = []
    while not outcomes or outcomes[-1] is None:
        outcomes.append(robot.step(np.zeros(2, np.float32)).outcome)
    if succeeds_at is None:
        assert outcomes == [None, None, None, Outcome.TRUNCATED]
    else:
        assert outcomes == [None] * (succeeds_at - 1) + [Outcome.SUCCESS]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "success is empty: give KEY of info"),
        ("reward>1", "a reward is compared as in reward>=0.9"),
        ("reward>=much", "a reward is compared as in reward>=0.9"),
        ("reward>=nan", "a reward is compared as in reward>=0.9"),
        ("no_such_module:done", "cannot be had .ModuleNotFoundError.*PYTHONPATH"),
        ("cup_success:empty", "cannot be had .AttributeError"),
        ("cup_success:THREE", "is a int; give a function"),
        ("cup_success:one", r"takes other arguments .*\(observation, reward, terminated, truncated, info\)"),
        ("cup_success.one", "takes other arguments"),
        ("cup_broken.full", "importing cup_broken raised RuntimeError: no licence"),
        ("cup_needs.full", "importing cup_needs raised ModuleNotFoundError.*no_such_package_here"),
    ],
)
def test_a_rule_is_checked_at_the_start(cup, rule, message):
    with pytest.raises(ConfigError, match=message):
        success_test(rule)


def test_a_function_that_raises_or_says_nothing_is_a_fault(cup):
    for rule, message in (
        ("cup_success:broken", "success function cup_success:broken raised KeyError"),
        ("cup_success:silent", "what success function cup_success:silent returned is None: no numbers"),
    ):
        robot = robot_of(Told(), rule)
        robot.reset(TASK, 0)
        with pytest.raises(RobotFault, match=message):
            robot.step(np.zeros(2, np.float32))


def test_a_rule_decides_alone():
    """Not the environment's own word beside it."""
    robot = robot_of(Told(info=lambda _: {"is_success": True}), "reward>=2")
    robot.reset(TASK, 0)
    assert [robot.step(np.zeros(2, np.float32)).outcome for _ in range(2)] == [None, Outcome.SUCCESS]
