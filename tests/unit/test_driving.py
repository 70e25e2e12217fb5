"""What deflections do to an action, by hand-made numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwd.driving import LEAD_S, Driving, drive_axis, hand_axis, relative_driving
from lwd.errors import ConfigError
from lwd.robots.driving_options import DrivingOptions
from lwd.robots.known_driving import known_driving
from lwd.types import Embodiment, TokenSpec

HZ = 20.0
JOINT = drive_axis("elbow", -90, 90, absolute=True, measured=1)
LIFT = drive_axis("lift", 0, 2, absolute=True)
WHEEL = drive_axis("wheel", -1, 3)
MIXED = Driving(control_hz=HZ, axes=(JOINT, LIFT, WHEEL))
STATE = np.array([7.0, 30.0], np.float32)


def embodiment(*sizes: tuple[str, int], actions: int) -> Embodiment:
    return Embodiment(
        name="thing", control_hz=HZ, state_tokens=tuple(TokenSpec(name=name, size=size) for name, size in sizes),
        action_low=(-2.0,) * actions, action_high=(2.0,) * actions,
    )  # fmt: skip


def deflected(*deflection: float):
    return np.array(deflection, np.float32)


def test_usual_speeds_are_a_quarter_of_the_range_per_second_and_half_the_largest_number():
    assert (JOINT.speed, LIFT.speed, WHEEL.speed) == (45, 0.5, 1.5)


def test_standing_still_is_what_is_measured_else_what_was_executed_else_unknown():
    assert MIXED.still(STATE, None) is None
    np.testing.assert_array_equal(MIXED.still(STATE, deflected(-50, 1.25, 0.5)), [30, 1.25, 0])
    np.testing.assert_array_equal(relative_driving(embodiment(actions=3)).still(STATE, None), [0, 0, 0])
    hand = Driving(control_hz=HZ, axes=(hand_axis(),))
    assert hand.still(STATE, None) == [-1]
    assert hand.still(STATE, deflected(0.5)) == [0.5]


def test_deflections_move_positions_and_are_speeds():
    target = MIXED.still(STATE, deflected(0, 1, 1))
    for number in range(1, 4):
        target = MIXED.moved(target, deflected(0.5, -1, -0.5), STATE)
        np.testing.assert_allclose(target, [30 + number * 45 * 0.5 / HZ, 1 - number * 0.5 / HZ, -0.75], rtol=1e-6)
    np.testing.assert_allclose(MIXED.moved(target, deflected(0, 0, 1), STATE), [*target[:2], 1.5])


def test_targets_stay_within_the_limits():
    target = deflected(89, 0.01, 0)
    far = np.array([0, 89], np.float32)
    for _ in range(10):
        target = MIXED.moved(target, deflected(1, -1, -1), far)
    np.testing.assert_array_equal(target, [90, 0, -1])
    beyond = np.array([0, 120], np.float32)
    assert MIXED.still(beyond, deflected(0, 1, 0))[0] == 90


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=100))
def test_a_blocked_joint_is_led_only_so_far(deflections):
    lead = 45 * LEAD_S
    target = MIXED.still(STATE, deflected(0, 1, 0))
    for deflection in deflections:
        target = MIXED.moved(target, deflected(deflection, 0, 0), STATE)
        assert abs(target[0] - STATE[1]) <= lead + 1e-4


def test_a_blocked_joint_reaches_its_lead_and_comes_back_at_once():
    target = MIXED.still(STATE, deflected(0, 1, 0))
    for _ in range(100):
        target = MIXED.moved(target, deflected(1, 0, 0), STATE)
    assert target[0] == pytest.approx(30 + 45 * LEAD_S)
    assert MIXED.moved(target, deflected(-1, 0, 0), STATE)[0] == pytest.approx(30 + 45 * LEAD_S - 45 / HZ)


def test_a_joint_that_sags_is_not_let_down_with_each_step():
    target = deflected(30, 1, 0)
    for fallen in range(5):
        sagging = np.array([0, 10 - fallen], np.float32)
        assert MIXED.moved(target, deflected(0, 1, 0), sagging)[0] == 30
        assert MIXED.moved(target, deflected(1, 0, 0), sagging)[0] == 30


def test_options_describe_an_environment():
    robot = embodiment(("image_pos", 3), ("agent_pos", 2), actions=2)
    driving = DrivingOptions.read(
        '{"labels": ["x", "y"], "absolute": true, "measured": "agent_pos", "speeds": [0.5, 2]}'
    ).of(robot)
    assert [(axis.label, axis.measured, axis.speed) for axis in driving.axes] == [("x", 3, 0.5), ("y", 4, 2)]
    plain = DrivingOptions.read("{}").of(robot)
    assert plain == relative_driving(robot)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "the value is wrong"),
        ("{", "the value is wrong"),
        ('{"absolut": true}', "absolut is wrong"),
        ('{"labels": ["x"]}', "1 labels; actions of thing have 2 numbers"),
        ('{"speeds": [1]}', "1 speeds; actions of thing have 2 numbers"),
        ('{"speeds": [1, 0]}', "they must be above 0"),
        ('{"speeds": [1, NaN]}', "is wrong"),
        ('{"measured": "agent_pos"}', "is not absolute"),
        ('{"absolute": true, "measured": "arm"}', "'arm'; thing observes image_pos, agent_pos"),
        ('{"absolute": true, "measured": "image_pos"}', "image_pos, of 3 numbers; actions of thing have 2"),
    ],
)
def test_options_that_do_not_fit_are_named(text, said):
    with pytest.raises(ConfigError, match=said):
        DrivingOptions.read(text).of(embodiment(("image_pos", 3), ("agent_pos", 2), actions=2))


def test_known_environments_need_no_options():
    aloha = known_driving("gym_aloha", None)(embodiment(("agent_pos", 14), actions=14))
    assert (aloha.axes[8].label, aloha.axes[8].absolute, aloha.axes[8].measured) == ("right shoulder", True, 8)
    assert known_driving("pusht", None)(embodiment(("state", 2), actions=2)).axes[1].measured == 1
    assert known_driving("pusht", None)(embodiment(("keypoints", 16), actions=2)).axes[1].measured is None
    libero = known_driving("libero", None)(embodiment(actions=7))
    assert [axis.absolute for axis in libero.axes] == [False] * 6 + [True]
    robot = embodiment(("agent_pos", 3), actions=3)
    assert known_driving("Reacher-v5", None)(robot) == relative_driving(robot)
    assert known_driving("aloha", DrivingOptions())(robot) == relative_driving(robot)
