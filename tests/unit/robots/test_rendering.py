"""Pictures of the scene."""

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from lwd.robots.sim import TASKS, make_robot
from lwd.robots.sim.rendering import coarsen_mesh
from lwd.robots.sim.robot import SceneRobot
from lwd.robots.sim.simulator import full_model


@pytest.fixture(scope="module")
def robot() -> Iterator[SceneRobot]:
    made = make_robot()
    yield made
    made.close()


def red_pixels(image: np.ndarray) -> int:
    red, green, blue = (image[..., i].astype(int) for i in range(3))
    return int(((red > 90) & (red > 2 * green) & (red > 2 * blue)).sum())


def test_the_picture_follows_the_scene_and_not_its_goal(robot: SceneRobot) -> None:
    robot.reset(TASKS["move_cube"], 0)
    first = robot.render(96, 128)
    assert first.shape == (96, 128, 3)
    np.testing.assert_array_equal(first, robot.render(96, 128))
    robot.sim.data.mocap_pos[:] += 0.1
    np.testing.assert_array_equal(first, robot.render(96, 128))
    robot.sim.data.qpos[robot.sim._cube_q] += 0.1
    assert not np.array_equal(first, robot.render(96, 128))


def test_locked_things_are_red(robot: SceneRobot) -> None:
    robot.reset(TASKS["press_button"], 0)
    locked = red_pixels(robot.render(96, 128))
    robot.sim.buttons = [1, 1]
    unlocked = red_pixels(robot.render(96, 128))
    assert unlocked < 0.5 * locked


def test_a_shifted_camera_sees_another_picture() -> None:
    pictures = []
    for world in ("nominal", "shifted"):
        robot = make_robot(world=world)
        robot.reset(TASKS["press_button"], 0)
        pictures.append(robot.render(48, 64).astype(int))
        robot.close()
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


def test_coarsening_keeps_the_shape_within_a_cell() -> None:
    model = mujoco.MjModel.__copy__(full_model())
    mesh = int(np.argmax(model.mesh_facenum))
    start = int(model.mesh_faceadr[mesh])
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    before = vertices[model.mesh_face[start : start + model.mesh_facenum[mesh]]]
    faces_before = int(model.mesh_facenum[mesh])
    coarsen_mesh(model, mesh, 0.004)
    after = vertices[model.mesh_face[start : start + model.mesh_facenum[mesh]]]
    assert 0 < model.mesh_facenum[mesh] < 0.5 * faces_before
    for side in (np.min, np.max):
        np.testing.assert_allclose(side(before, axis=(0, 1)), side(after, axis=(0, 1)), atol=0.004)
