"""What the eight tasks promise."""

import pytest

from lwd.errors import ConfigError, UnknownTask
from lwd.robots.sim import TASKS, embodiment_seeing, make_robot, task_named, world_named
from lwd.robots.sim.tasks import GOALS


def test_four_short_and_four_long_tasks_each_with_a_goal() -> None:
    assert [task.long_horizon for task in TASKS.values()] == [False] * 4 + [True] * 4
    assert set(GOALS) == set(TASKS)


def test_long_tasks_have_four_to_eight_sub_steps_and_short_ones_one() -> None:
    for task in TASKS.values():
        assert len(task.sub_steps) in (range(4, 9) if task.long_horizon else (1,))


def test_instructions_are_unique_over_all_tasks() -> None:
    said = [text for task in TASKS.values() for text in (*task.instructions, *task.heldout_instructions)]
    assert len(said) == len(set(said))
    for task in TASKS.values():
        assert len(task.instructions) >= 4
        assert len(task.heldout_instructions) == 2


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownTask, match="put_in_drawer"):
        task_named("make_tea")
    with pytest.raises(ConfigError, match="shifted"):
        world_named("mars")
    with pytest.raises(ConfigError, match="ogbench-scene"):
        make_robot("humanoid")
    with pytest.raises(ConfigError, match="pixels"):
        embodiment_seeing("smell")  # type: ignore[arg-type]
