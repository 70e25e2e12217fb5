from dataclasses import replace

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.matching import column_order, differences, match
from lwd.types import Embodiment, TokenSpec

RUN = Embodiment(
    name="arm",
    control_hz=20.0,
    state_tokens=(TokenSpec(name="state", size=3, names=("a", "b", "c")), TokenSpec(name="effort", size=2)),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    cameras={"front": (48, 64)},
    action_names=("left", "right"),
)
ONE = replace(RUN, state_tokens=(TokenSpec(name="state", size=2),))


def test_columns_by_name():
    assert column_order("it", ["a", "b", "c"], ["c", "a", "b"]) == (1, 2, 0)
    assert column_order("it", [], ["c", "a"]) == column_order("it", ["c", "a"], []) == (0, 1)
    assert column_order("it", ["shoulder", "elbow"], ["motor_1", "motor_2"]) == (0, 1)
    assert column_order("it", ["motor_2", "motor_1"], ["motor_1", "motor_2"]) == (1, 0)
    for other in (["a", "d"], ["a"], ["a", "b", "c"], ["a", "a"]):
        with pytest.raises(ConfigError, match=r"it is \[a.*the run's is \[a, b\]"):
            column_order("it", ["a", "b"], other)


def test_another_order_is_permuted_both_ways():
    effort, state = RUN.state_tokens[1], TokenSpec(name="state", size=3, names=("c", "a", "b"))
    found = replace(RUN, state_tokens=(effort, state), action_names=("right", "left"))
    assert differences(RUN, found) == ()
    fit = match(RUN, found)
    np.testing.assert_array_equal(fit.state(np.array([[10, 11, 2, 0, 1]])), [[0, 1, 2, 10, 11]])
    action = np.array([1.0, 2.0])
    np.testing.assert_array_equal(fit.action_to_robot(action), [2, 1])
    np.testing.assert_array_equal(fit.action_from_robot(fit.action_to_robot(action)), action)


@pytest.mark.parametrize(
    ("run", "found", "said"),
    [
        (RUN, {"state_tokens": (TokenSpec(name="pose", size=3), RUN.state_tokens[1])}, r"pose \(3\), effort \(2\), "),
        (RUN, {"state_tokens": (TokenSpec(name="all", size=5),)}, r"the state is all \(5\), the run's is state \(\["),
        (RUN, {"state_tokens": (RUN.state_tokens[0], TokenSpec(name="effort", size=3))}, "effort must have 2 numbers"),
        (ONE, {"state_tokens": (TokenSpec(name="state", size=3),)}, "state must have 2 numbers"),
        (RUN, {"action_names": ("left", "grip")}, r"the action is \[left, grip\], the run's is \[left, right\]"),
        (RUN, {"action_low": (0.0,), "action_names": ()}, r"the action has 1 numbers \(without names\), the run's 2"),
        (RUN, {"control_hz": 50.0}, "the rate is 50 Hz, the run's is 20 Hz: set that"),
        (RUN, {"cameras": {"wrist": (48, 64)}}, "the cameras are wrist 48x64, the run's front 48x64"),
        (RUN, {"cameras": {"front": (64, 64)}}, "camera front is 64x64 .* the run's front is 48x64"),
    ],
)
def test_what_differs_is_said_with_both_sides(run, found, said):
    with pytest.raises(ConfigError, match=said):
        match(run, replace(run, **found))
    assert len(differences(run, replace(run, **found))) == 1


def test_one_vector_each_and_lerobots_names_of_keys_fit():
    other = replace(ONE, state_tokens=(TokenSpec(name="observation", size=2),), cameras={"pixels.front": (96, 128)})
    assert match(ONE, other).images({"pixels.front": 1}) == {"front": 1}
    gym = replace(RUN, state_tokens=(RUN.state_tokens[1], TokenSpec(name="agent_pos", size=3)))
    assert match(RUN, gym).state_order == (2, 3, 4, 0, 1)


def test_joints_of_a_device_are_one_vector_with_names():
    tokens = (TokenSpec(name="arm", size=2, names=("a", "b")), TokenSpec(name="hand", size=1, names=("g",)))
    device = replace(RUN, state_tokens=(TokenSpec(name="state", size=3, names=("g", "a", "b")),))
    assert match(replace(RUN, state_tokens=tokens), device).state_order == (1, 2, 0)
    bare = tuple(replace(token, names=()) for token in tokens)
    assert match(replace(RUN, state_tokens=bare), device).state_order == (0, 1, 2)


def test_a_size_that_was_chosen_at_the_import_is_no_other_camera():
    square = replace(RUN, cameras={"front": (32, 32)}, recorded_cameras={"front": (480, 640)})
    assert differences(square, RUN) == ()
    assert differences(replace(square, recorded_cameras={}), RUN)
