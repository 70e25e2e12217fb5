"""Drawing the scene with MuJoCo in software.

A software renderer is bound by faces: the arm's and gripper's meshes have 188,000, of which a small picture
shows nothing. They are coarsened to 4 mm, and shadows and reflections are off: about 5 times faster than the
stock model without shadows.
"""

import functools
from typing import Any

import mujoco
import numpy as np

from lwd.errors import RobotFault
from lwd.robots.sim.simulator import SceneSimulator, full_model
from lwd.types import ByteArray

MESH_CELL_M = 0.004
_RED, _WHITE = (0.96, 0.26, 0.33, 1.0), (0.9, 0.9, 0.9, 1.0)


@functools.cache
def _drawn_model() -> Any:
    """Return the full model with coarse meshes and without the mark at the cube's goal."""
    model = mujoco.MjModel.__copy__(full_model())
    for mesh in range(model.nmesh):
        coarsen_mesh(model, mesh, MESH_CELL_M)
    model.mat_reflectance[:] = 0.0
    # No robot sees its goal, so the picture must not show it either.
    model.geom("target_object_0").rgba[3] = 0.0
    return model


def coarsen_mesh(model: Any, mesh: int, cell_m: float) -> None:
    """Merge the vertices of one mesh within cells of a grid, in place; faces that collapse are dropped."""
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    cells = np.floor(vertices / cell_m).astype(np.int64)
    _, representative, cell_of = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    start, count = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    stored = slice(start, start + count)
    faces = representative[cell_of.ravel()[model.mesh_face[stored]]]
    corners = np.sort(faces, axis=1)
    _, distinct = np.unique(corners, axis=0, return_index=True)
    solid = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    kept = distinct[solid[distinct]]
    for array, values in (
        (model.mesh_face, faces),
        (model.mesh_facenormal, model.mesh_facenormal[stored]),
        (model.mesh_facetexcoord, model.mesh_facetexcoord[stored]),
    ):
        array[start : start + len(kept)] = values[kept]
    model.mesh_facenum[mesh] = len(kept)


class SceneCamera:
    """One renderer of one size, on a model of its own (the simulator's has no visual geoms).

    Raises:
        RobotFault: if this process has no OpenGL to render with.
    """

    def __init__(self, height: int, width: int, *, offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.size = (height, width)
        self._model = mujoco.MjModel.__copy__(_drawn_model())
        self._model.vis.global_.offheight = height
        self._model.vis.global_.offwidth = width
        self._camera = int(self._model.camera("front_pixels").id)
        self._model.cam_pos[self._camera] += offset_m
        self._data: Any = mujoco.MjData(self._model)
        try:
            self._renderer = mujoco.Renderer(self._model, height=height, width=width)
        except mujoco.FatalError as error:
            raise RobotFault(
                "MuJoCo found no OpenGL to render with; set MUJOCO_GL=egl or MUJOCO_GL=osmesa before mujoco "
                "is imported, or use observation='state'"
            ) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0

    def draw(self, sim: SceneSimulator) -> ByteArray:
        """Return (height, width, 3) uint8 of the simulator's present state; what is locked is red."""
        model, data = self._model, self._data
        data.qpos[:] = sim.data.qpos
        for index, handle in ((0, "drawer_handle"), (1, "window_handle")):
            colour = _WHITE if sim.buttons[index] else _RED
            model.geom(f"btngeom_{index}").rgba = colour
            model.material(handle).rgba = colour
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        self._renderer.update_scene(data, camera=self._camera)
        return np.array(self._renderer.render())

    def close(self) -> None:
        self._renderer.close()
