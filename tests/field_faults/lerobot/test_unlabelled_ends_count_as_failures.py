"""A real arm cannot tell that its task is done: `lwd robot` says so at its start."""

from lwd.robots.protocol import JudgingRobot, tells_success

from ...lerobot.test_robots import arm


def test_a_lerobot_robot_has_no_success_test():
    robot, _, _ = arm()
    assert isinstance(robot, JudgingRobot)
    assert tells_success(robot) is False
