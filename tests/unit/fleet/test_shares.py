"""One robot's share of the fleet's steps: warned about once, when it changes."""

import logging

import pytest

from lwd.fleet.shares import StepShares


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("robots", [3, 8])
def test_a_robot_far_beyond_the_others_is_warned_about_once(caplog, robots):
    shares = StepShares()
    for number in range(300):
        shares.note(f"robot-{number % robots}", 50)
    assert shares.beyond == frozenset()
    assert warnings(caplog) == []
    for number in range(200):
        shares.note(f"robot-{number % robots}", 400 if number % robots == 1 else 50)
    assert shares.beyond == {"robot-1"}
    (warning,) = warnings(caplog)
    assert "robot robot-1 has " in warning
    assert "`lwd data revoke --robot robot-1`" in warning
    for number in range(300):
        shares.note(f"robot-{number % robots}", 50)
    assert shares.beyond == frozenset()


def test_two_robots_and_a_beginning_say_nothing(caplog):
    shares = StepShares()
    for number in range(31):
        shares.note("robot-1" if number % 8 else f"robot-{number}", 400)
    assert shares.beyond == frozenset()
    pair = StepShares()
    for number in range(300):
        pair.note("robot-1" if number % 8 else "robot-2", 400)
    assert pair.beyond == frozenset()
    assert warnings(caplog) == []


def test_a_robot_that_falls_silent_leaves_the_window():
    shares = StepShares()
    for robot in ("gone", *("robot-1", "robot-2") * 200):
        shares.note(robot, 10)
    assert set(shares._steps) == {"robot-1", "robot-2"}
