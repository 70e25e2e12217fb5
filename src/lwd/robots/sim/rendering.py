"""Drawing the scene with MuJoCo in software.

Shadows and reflections cost two thirds of the time and add nothing that a policy or a reader needs: they are
off.
"""

from typing import Any

import mujoco
import numpy as np

from lwd.robots.sim.simulator import SceneSimulator, full_model
from lwd.types import ByteArray

_RED, _WHITE = (0.96, 0.26, 0.33, 1.0), (0.9, 0.9, 0.9, 1.0)


class SceneCamera:
    """One renderer of one size, on a full model of its own (the simulator's has no visual geoms)."""

    def __init__(
        self, height: int, width: int, *, offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> None:
        self.size = (height, width)
        self._model = mujoco.MjModel.__copy__(full_model())
        self._model.vis.global_.offheight = height
        self._model.vis.global_.offwidth = width
        self._model.mat_reflectance[:] = 0.0
        self._camera = int(self._model.camera("front_pixels").id)
        self._model.cam_pos[self._camera] += offset_m
        self._data: Any = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, height=height, width=width)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0

    def draw(self, sim: SceneSimulator) -> ByteArray:
        """Return (height, width, 3) uint8 of the simulator's present state; what is locked is red."""
        model, data = self._model, self._data
        data.qpos[:] = sim.data.qpos
        data.mocap_pos[:] = sim.data.mocap_pos
        for index, handle in ((0, "drawer_handle"), (1, "window_handle")):
            colour = _WHITE if sim.buttons[index] else _RED
            model.geom(f"btngeom_{index}").rgba = colour
            model.material(handle).rgba = colour
        mujoco.mj_forward(model, data)
        self._renderer.update_scene(data, camera=self._camera)
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        self._renderer.close()
