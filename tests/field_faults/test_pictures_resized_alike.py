"""Pictures were resized by a box filter in data and by the nearest pixel on the robot (row 11)."""

import numpy as np
import pytest
from gymnasium import spaces

from lwd.errors import ShapeError
from lwd.pictures import fitted
from lwd.types import Embodiment, TokenSpec

from .environments import Told, robot_of

TEXTURED = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_a_robot_sees_a_textured_frame_as_its_data_have_it():
    run = Embodiment(
        name="told", control_hz=20.0, state_tokens=(TokenSpec(name="state", size=3),), action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0), cameras={"front": (12, 16)},
    )  # fmt: skip
    space = spaces.Dict({"state": spaces.Box(-1, 1, (3,)), "front": spaces.Box(0, 255, TEXTURED.shape, np.uint8)})
    seen = {"state": np.zeros(3), "front": TEXTURED}
    robot = robot_of(Told(observation_space=space, reset=lambda _: (seen, {})), embodiment=run)
    picture = robot.reset(robot.tasks[0], 0).images["front"]
    # The mean of each 4 x 4 pixels, as the import stores it (it calls the same function).
    means = TEXTURED.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(picture - means).max() <= 1
    np.testing.assert_array_equal(picture, fitted(TEXTURED, (12, 16)))


def test_what_is_no_picture_is_not_made_one():
    for wrong in (TEXTURED[..., 0], TEXTURED / np.float32(255), TEXTURED[:0], np.moveaxis(TEXTURED, -1, 0)):
        with pytest.raises(ShapeError, match=r"expected .height, width, 3. uint8"):
            fitted(wrong, (12, 16))
