"""Sub-steps: held, lost, won back, approached twice."""

from dataclasses import replace

import pytest

from lwd.robots.sim.progress import LOSS_GRACE_STEPS, REST_STEPS, Progress, SceneState, sub_steps_of
from lwd.robots.sim.tasks import GOALS, TASKS


def start(task: str) -> tuple[Progress, SceneState]:
    goal = GOALS[task]
    state = SceneState(
        cube_m=goal.cube_start_m,
        cube_goal_m=goal.cube_goal_m or goal.cube_start_m,
        cube_in_drawer=False,
        buttons=goal.buttons_start,
        drawer_m=goal.drawer_start_m,
        window_m=goal.window_start_m,
    )
    return Progress(sub_steps_of(TASKS[task].sub_steps, goal), state), state


@pytest.mark.parametrize("task", list(TASKS))
def test_nothing_is_done_at_the_start(task: str) -> None:
    progress, state = start(task)
    assert progress.observe(state) == (0.0,) * len(TASKS[task].sub_steps)


@pytest.mark.parametrize("task", list(TASKS))
def test_at_the_goal_every_sub_step_is_done(task: str) -> None:
    progress, state = start(task)
    goal = GOALS[task]
    done = replace(
        state,
        cube_m=state.cube_goal_m,
        cube_in_drawer="cube in drawer" in TASKS[task].sub_steps,
        buttons=goal.buttons_goal,
        drawer_m=goal.drawer_goal_m,
        window_m=goal.window_goal_m,
    )
    assert progress.observe(done) == (1.0,) * len(TASKS[task].sub_steps)


def test_sub_steps_count_in_order_and_a_lock_does_not_undo_its_unlocking() -> None:
    progress, state = start("unlock_and_lock")
    unlocked = replace(state, buttons=(1, 0))
    assert progress.observe(unlocked) == (1, 0, 0, 0, 0, 0)
    shut = replace(unlocked, drawer_m=-0.01)
    assert progress.observe(shut) == (1, 1, 0, 0, 0, 0)
    locked = replace(shut, buttons=(0, 0))
    for _ in range(LOSS_GRACE_STEPS + 1):
        scores = progress.observe(locked)
    assert scores == (1, 1, 1, 0, 0, 0)


def test_a_sub_step_that_is_undone_is_lost_and_costs_half_when_won_back() -> None:
    progress, state = start("unlock_and_lock")
    unlocked = replace(state, buttons=(1, 0))
    progress.observe(unlocked)
    for _ in range(LOSS_GRACE_STEPS):
        scores = progress.observe(state)
    assert scores[0] == 0.0
    assert progress.observe(unlocked)[0] == 0.5


def test_a_flicker_within_the_grace_costs_nothing() -> None:
    progress, state = start("open_drawer")
    opened = replace(state, drawer_m=-0.13)
    progress.observe(opened)
    for _ in range(LOSS_GRACE_STEPS - 1):
        assert progress.observe(replace(state, drawer_m=-0.11)) == (1.0,)
    assert progress.observe(opened) == (1.0,)


def approach(progress: Progress, state: SceneState, start_m: float, end_m: float) -> None:
    for i in range(1, 11):
        progress.observe(replace(state, drawer_m=start_m + (end_m - start_m) * i / 10))


def test_a_second_approach_costs_half() -> None:
    progress, state = start("open_drawer")
    approach(progress, state, 0.0, -0.06)
    for _ in range(REST_STEPS + 1):
        progress.observe(replace(state, drawer_m=-0.06))
    approach(progress, state, -0.06, -0.11)
    assert progress.observe(replace(state, drawer_m=-0.13)) == (0.5,)


def test_one_approach_with_a_short_pause_is_one_approach() -> None:
    progress, state = start("open_drawer")
    approach(progress, state, 0.0, -0.06)
    for _ in range(REST_STEPS - 2):
        progress.observe(replace(state, drawer_m=-0.06))
    approach(progress, state, -0.06, -0.11)
    assert progress.observe(replace(state, drawer_m=-0.13)) == (1.0,)


def test_opening_the_drawer_is_no_attempt_at_closing_it() -> None:
    progress, state = start("put_in_drawer")
    state = replace(state, buttons=(1, 0))
    approach(progress, state, 0.0, -0.16)
    inside = replace(state, cube_m=(0.33, -0.24, 0.066), cube_in_drawer=True, drawer_m=-0.16)
    for _ in range(REST_STEPS + 1):
        progress.observe(inside)
    approach(progress, inside, -0.16, -0.05)
    shut = replace(inside, cube_m=(0.33, -0.356, 0.066), drawer_m=0.0)
    assert progress.observe(shut) == (1.0, 1.0, 1.0, 1.0)
