"""The expert reaches the goals, from starts and from where others left off."""

import numpy as np
import pytest

from lwd.robots.sim import TASKS, make_robot
from lwd.robots.sim.oracle import SceneExpert, next_sub_goal
from lwd.robots.sim.robot import SceneRobot
from lwd.robots.sim.tasks import GOALS
from lwd.types import Outcome, RobotView, StepResult, Task


@pytest.fixture(scope="module")
def robot() -> SceneRobot:
    return make_robot()


def run(robot: SceneRobot, task: Task, seed: int, disturb_steps: int = 0) -> StepResult:
    """Let the expert act after some steps of a random drift."""
    observation = robot.reset(task, seed)
    expert, scores = SceneExpert(), (0.0,) * len(task.sub_steps)
    drift = np.random.default_rng(seed).uniform(-1, 1, 5).astype(np.float32)
    for step in range(task.time_limit):
        view = RobotView(
            robot_id="r",
            task=task,
            step=step,
            observation=observation,
            sub_step_scores=scores,
            privileged=robot.privileged(),
        )
        result = robot.step(drift if step < disturb_steps else expert.act(view))
        observation, scores = result.observation, result.sub_step_scores
        if result.outcome is not None:
            break
    return result


@pytest.mark.parametrize("task", list(TASKS))
def test_the_expert_succeeds_with_full_marks(robot: SceneRobot, task: str) -> None:
    results = [run(robot, TASKS[task], seed) for seed in (0, 1)]
    assert [result.outcome for result in results] == [Outcome.SUCCESS] * 2
    assert all(result.sub_step_scores == (1.0,) * len(TASKS[task].sub_steps) for result in results)


@pytest.mark.parametrize("task", ["open_drawer", "unlock_and_lock"])
def test_the_expert_takes_over_from_anywhere(robot: SceneRobot, task: str) -> None:
    outcomes = [run(robot, TASKS[task], seed, disturb_steps=15).outcome for seed in range(3)]
    assert outcomes == [Outcome.SUCCESS] * 3


def test_a_locked_drawer_is_unlocked_first_and_a_stuck_goal_is_undone(robot: SceneRobot) -> None:
    robot.reset(TASKS["put_in_drawer"], 0)
    info = dict(robot.privileged())
    goal = GOALS["put_in_drawer"]
    assert next_sub_goal(goal, info).what == "button_0"
    info["privileged/button_0_state"] = 1
    assert next_sub_goal(goal, info).what == "drawer"
    info["privileged/block_0_pos"] = np.array([0.33, -0.1, 0.02])  # in the drawer's way
    assert next_sub_goal(goal, info).what == "cube"


def test_the_expert_is_a_function_of_the_view(robot: SceneRobot) -> None:
    observation = robot.reset(TASKS["rearrange_hard"], 4)
    view = RobotView(
        robot_id="r",
        task=TASKS["rearrange_hard"],
        step=0,
        observation=observation,
        sub_step_scores=(0.0,) * 8,
        privileged=robot.privileged(),
    )
    used = SceneExpert()
    for _ in range(5):
        first = used.act(view)
    np.testing.assert_array_equal(first, SceneExpert().act(view))
