"""What may reach a robot."""

import numpy as np
import pytest

from lwd.errors import ActionRejected
from lwd.robots.limits import checked_action, checked_chunk
from lwd.types import Embodiment, TokenSpec

ARM = Embodiment(
    name="arm", control_hz=20.0, state_tokens=(TokenSpec(name="state", size=1),), action_low=(-1.0, 0.1),
    action_high=(1.0, 0.7),
)  # fmt: skip


def test_finite_numbers_are_clipped_to_the_limits_as_float32():
    # Neither .1 nor .7 is a float32: the nearest one counts, on whichever side it lies.
    low, high = np.array(ARM.action_low, np.float32), np.array(ARM.action_high, np.float32)
    for given in ([-9.0, -9.0], [-1e300, -1e300], np.array([-(2**62), -5], np.int64), np.full(2, -65504, np.float16)):
        found = checked_action(given, ARM)
        assert (found.dtype, found.shape) == (np.float32, (2,))
        np.testing.assert_array_equal(found, low)
    for given in ([9.0, 9.0], np.array([1e300, 3.5e38]), np.array([1, 1 + 1e-9]), np.full(2, 2**63, np.uint64)):
        np.testing.assert_array_equal(checked_action(given, ARM), high)
    within = np.array([0.25, 0.5], np.float32)
    np.testing.assert_array_equal(checked_action(within, ARM), within)
    assert checked_action(np.array([5e-324, 0.5]), ARM)[0] == 0


def test_what_was_given_is_not_changed():
    given = np.array([9.0, 9.0], np.float32)
    checked_action(given, ARM)
    np.testing.assert_array_equal(given, [9, 9])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([np.nan, 0.5], "not finite"),
        ([0.0, np.inf], "not finite"),
        (np.full(2, -np.inf, np.float16), "not finite"),
        (np.zeros(3), r"shape \(3,\); arm takes \(2,\)"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (0.5, r"shape \(\)"),
        (None, "dtype object"),
        ("0.5", "dtype <U3"),
        (np.array([True, False]), "dtype bool"),
        (np.array([1j, 0]), "dtype complex128"),
        ([[0.0], [0.0, 1.0]], "no array of numbers"),
    ],
)
def test_anything_else_is_refused(given, reason):
    with pytest.raises(ActionRejected, match=reason):
        checked_action(given, ARM)


def test_a_chunk_has_at_least_one_action():
    assert checked_chunk(np.full((3, 2), 9.0), ARM).shape == (3, 2)
    for shape in ((0, 2), (2,), (3, 1), (1, 3, 2)):
        with pytest.raises(ActionRejected, match=r"takes \(H >= 1, 2\)"):
            checked_chunk(np.zeros(shape), ARM)
