"""When help comes, and when it ends."""

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.operators.protocol import Intent, RobotView
from lwd.operators.scripted import ScriptedOperator
from lwd.types import FloatArray, Observation, Task

TASK = Task(
    name="t",
    instructions=("do",),
    heldout_instructions=("please",),
    sub_steps=("a", "b"),
    time_limit=100,
    long_horizon=True,
)
HELP = np.array([0.25, 0.5], np.float32)


class Expert:
    def act(self, view: RobotView) -> FloatArray:
        return HELP


def view(step: int, *scores: float) -> RobotView:
    return RobotView(
        robot_id="r",
        task=TASK,
        step=step,
        observation=Observation(state=np.zeros(1, np.float32)),
        sub_step_scores=scores or (0.0, 0.0),
        privileged={},
    )


def operator(allowed_fraction: float = 1.0, patience: int = 4) -> ScriptedOperator:
    made = ScriptedOperator(Expert(), patience=patience, allowed_fraction=allowed_fraction)
    made.begin(view(0), seed=0)
    return made


def test_it_waits_for_its_patience_then_acts_as_the_expert() -> None:
    helper = operator()
    commands = [helper.poll(view(step)) for step in range(6)]
    assert [c.intent for c in commands] == [Intent.OBSERVE] * 4 + [Intent.TAKE_OVER] * 2
    np.testing.assert_array_equal(commands[-1].action, HELP)


def test_it_releases_when_the_sub_step_is_done_and_waits_again() -> None:
    helper = operator()
    for step in range(6):
        helper.poll(view(step))
    assert helper.poll(view(6, 0.5, 0.0)).intent is Intent.OBSERVE
    intents = [helper.poll(view(step, 0.5, 0.0)).intent for step in range(7, 12)]
    assert intents == [Intent.OBSERVE] * 3 + [Intent.TAKE_OVER] * 2


def test_losing_a_sub_step_is_no_progress_and_winning_it_back_is() -> None:
    helper = operator()
    helper.poll(view(2, 1.0, 0.0))
    assert helper.poll(view(5, 0.0, 0.0)).intent is Intent.OBSERVE
    assert helper.poll(view(6, 0.0, 0.0)).intent is Intent.TAKE_OVER
    assert helper.poll(view(7, 0.5, 0.0)).intent is Intent.OBSERVE


def test_help_is_allowed_in_the_given_fraction_and_depends_on_the_seed_alone() -> None:
    def helped(seed: int) -> bool:
        helper = ScriptedOperator(Expert(), patience=1, allowed_fraction=0.4)
        helper.begin(view(0), seed)
        return helper.poll(view(5)).intent is Intent.TAKE_OVER

    drawn = [helped(seed) for seed in range(400)]
    assert 0.33 < np.mean(drawn) < 0.47
    assert drawn == [helped(seed) for seed in range(400)]


def test_no_help_where_none_is_allowed() -> None:
    helper = operator(allowed_fraction=0.0)
    assert helper.poll(view(90)).intent is Intent.OBSERVE


@pytest.mark.parametrize(("field", "value"), [("patience", 0), ("allowed_fraction", 1.5)])
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        ScriptedOperator(Expert(), **{field: value})  # type: ignore[arg-type]
