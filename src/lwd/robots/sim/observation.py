"""What a policy sees of the scene: named groups of numbers of size about one.

Each object's token carries the object itself and the hand relative to it: differences pass through tanh at a
coarse (10 cm) and a fine (2 cm) scale, because reaching needs the first and grasping the second; yaw
differences enter as sine and cosine of the multiple that the object's symmetry leaves (4 for the cube, 2 for
handles).
"""

import math
from collections.abc import Sequence

import numpy as np

from lwd.robots.sim.simulator import SceneSimulator, yaw_of_quat
from lwd.types import FloatArray

COARSE_M, FINE_M = 0.1, 0.02


def _relative(effector: Sequence[float], target: Sequence[float]) -> list[float]:
    difference = [e - t for e, t in zip(effector, target, strict=True)]
    return [math.tanh(d / COARSE_M) for d in difference] + [math.tanh(d / FINE_M) for d in difference]


def proprioception(sim: SceneSimulator, yaw: float) -> list[float]:
    """Arm joints (rad/pi, rad/s), effector in the workspace, its yaw, gripper opening, contact: 19
    numbers."""
    x, y, z = sim.effector_m.tolist()
    return [
        *(sim.data.qpos[:6] / math.pi).tolist(),
        *sim.data.qvel[:6].tolist(),
        (x - 0.425) / 0.175,
        y / 0.35,
        (z - 0.185) / 0.165,
        math.cos(yaw),
        math.sin(yaw),
        2 * sim.gripper_opening - 1,
        sim.gripper_contact,
    ]


def full_state(sim: SceneSimulator) -> FloatArray:
    """Return all tokens, (73,) float32."""
    hand = sim.effector_m.tolist()
    hand_yaw = sim.effector_yaw
    state = proprioception(sim, hand_yaw)

    cube = sim.cube_m.tolist()
    w, x, y, z = sim.cube_quat.tolist()
    cube_yaw = yaw_of_quat(w, x, y, z)
    difference = 4 * (hand_yaw - cube_yaw)
    state += [
        (cube[0] - 0.425) / 0.175,
        cube[1] / 0.35,
        (cube[2] - 0.185) / 0.165,
        # The world's vertical in the cube's frame: how it has tipped, without a quaternion's double cover.
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
        math.cos(cube_yaw),
        math.sin(cube_yaw),
        *_relative(hand, cube),
        math.cos(difference),
        math.sin(difference),
    ]
    for index in (0, 1):
        state += [
            2.0 * sim.buttons[index] - 1,
            sim.button_m(index) / 0.024,
            math.tanh(sim.button_m_per_s(index)),
            *_relative(hand, sim.button_top_m(index).tolist()),
        ]
    for position, velocity, handle, handle_yaw in (
        (2 * sim.drawer_m / 0.16 + 1, sim.drawer_m_per_s, sim.drawer_handle_m, sim.drawer_yaw),
        (2 * sim.window_m / 0.2 - 1, sim.window_m_per_s, sim.window_handle_m, sim.window_yaw),
    ):
        difference = 2 * (hand_yaw - handle_yaw)
        state += [
            position,
            math.tanh(velocity * 5),
            *_relative(hand, handle.tolist()),
            math.cos(difference),
            math.sin(difference),
        ]
    return np.array(state, dtype=np.float32)
