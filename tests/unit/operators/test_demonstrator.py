"""How demonstrations and bad data are spoiled."""

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.operators.demonstrator import EFFECTOR_POSITION, Behaviour, Demonstrator
from lwd.operators.protocol import Intent, RobotView
from lwd.types import FloatArray, Observation, Task


def task(name: str) -> Task:
    return Task(
        name=name,
        instructions=(name,),
        heldout_instructions=(),
        sub_steps=("a", "b"),
        time_limit=100,
        long_horizon=True,
    )


class Pointing:
    """Acts as it believes: returns where it thinks the hand is, and remembers the task it pursued."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def act(self, view: RobotView) -> FloatArray:
        self.tasks.append(view.task.name)
        return np.asarray([*view.privileged[EFFECTOR_POSITION], 0.0, 0.0], np.float32)


def view(step: int, scores: tuple[float, ...] = (0.0, 0.0)) -> RobotView:
    return RobotView(
        robot_id="r",
        task=task("wanted"),
        step=step,
        observation=Observation(state=np.zeros(1, np.float32)),
        sub_step_scores=scores,
        privileged={EFFECTOR_POSITION: np.array([0.1, 0.2, 0.3])},
    )


def actions(behaviour: Behaviour, seed: int, steps: int = 60, **more: tuple[Task, ...]) -> np.ndarray:
    demonstrator = Demonstrator(Pointing(), behaviour, **more)
    demonstrator.begin(view(0), seed)
    commands = [demonstrator.poll(view(step)) for step in range(steps)]
    assert all(command.intent is Intent.TAKE_OVER for command in commands)
    return np.stack([command.action for command in commands])


CLEAN = np.array([0.1, 0.2, 0.3, 0.0, 0.0], np.float32)


def test_without_flaws_it_is_the_expert() -> None:
    np.testing.assert_allclose(actions(Behaviour(), 0), np.tile(CLEAN, (60, 1)))


def test_noise_has_the_given_size_and_follows_the_seed() -> None:
    behaviour = Behaviour(action_noise=0.1)
    drawn = actions(behaviour, 3, steps=2000)
    assert (drawn - CLEAN).std() == pytest.approx(0.1, rel=0.05)
    np.testing.assert_array_equal(drawn[:50], actions(behaviour, 3)[:50])
    assert not np.array_equal(drawn[:50], actions(behaviour, 4)[:50])


def test_an_aim_error_shifts_the_belief_by_its_size_and_passes() -> None:
    drawn = actions(Behaviour(aim_error_probability=1.0, aim_error_m=0.03, aim_error_steps=20), 0)
    shift = np.linalg.norm(drawn[:, :3] - CLEAN[:3], axis=1)
    np.testing.assert_allclose(shift[:20], 0.03, atol=1e-6)
    np.testing.assert_allclose(shift[20:], 0.0, atol=1e-6)


def test_aim_errors_come_at_the_given_rate() -> None:
    behaviour = Behaviour(aim_error_probability=0.12)
    wrong = [np.any(actions(behaviour, seed, steps=1)[0] != CLEAN) for seed in range(600)]
    assert 0.09 < np.mean(wrong) < 0.15


def test_a_lapse_moves_one_way_for_a_while() -> None:
    drawn = actions(Behaviour(lapse_probability=1.0, lapse_steps=15), 0, steps=6)
    assert len(np.unique(drawn, axis=0)) == 1
    assert not np.allclose(drawn[0], CLEAN)


def test_a_wanderer_pursues_other_tasks_in_turn() -> None:
    expert = Pointing()
    demonstrator = Demonstrator(expert, Behaviour(wander_steps=10), distractions=(task("x"), task("y")))
    demonstrator.begin(view(0), 1)
    for step in range(200):
        demonstrator.poll(view(step))
    assert set(expert.tasks) == {"x", "y"}
    changes = sum(a != b for a, b in zip(expert.tasks, expert.tasks[1:], strict=False))
    assert 3 <= changes <= 30


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="lapse_probability"):
        Behaviour(lapse_probability=2.0)
    with pytest.raises(ConfigError, match="distractions"):
        Demonstrator(Pointing(), Behaviour(wander_steps=5))
