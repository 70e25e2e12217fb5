"""The scene as a browser draws it: which shapes hang on which body, with coarse meshes.

Little-endian: length of the JSON u32, JSON, padding to 4 bytes, vertices (n x 3 float32, m), faces (m x 3 uint32). The
JSON names the bodies in the order of the pose frames and lists the shapes; a mesh is a range of vertices and one of
faces, whose indices count from the mesh's first vertex.
"""

import json
import struct
from typing import Any

import mujoco
import numpy as np

from lwd.robots.sim.rendering import coarsen_mesh
from lwd.robots.sim.simulator import full_model

MESH_CELL_M = 0.006
_VISIBLE_GROUPS = (0, 1, 2)
_KINDS = {
    int(mujoco.mjtGeom.mjGEOM_PLANE): "plane",
    int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
    int(mujoco.mjtGeom.mjGEOM_BOX): "box",
    int(mujoco.mjtGeom.mjGEOM_MESH): "mesh",
}
_GOAL = "target_object_0"
_GOAL_RGBA = [0.2, 0.8, 0.4, 0.35]
_LAMPS = (("btngeom_0", "drawer_handle"), ("btngeom_1", "window_handle"))
"""Per button the geom and the material whose colour says that something is unlocked."""
_UNLIT_RGBA, _LIT_RGBA = [0.96, 0.26, 0.33, 1.0], [0.9, 0.9, 0.9, 1.0]


def scene_description() -> bytes:
    """Return the scene (about 300 KB); loads and compiles the simulator (some seconds)."""
    model = mujoco.MjModel.__copy__(full_model())
    for mesh in range(model.nmesh):
        coarsen_mesh(model, mesh, MESH_CELL_M)
    used: dict[int, int] = {}
    meshes: list[dict[str, int]] = []
    vertices: list[Any] = []
    faces: list[Any] = []
    geoms = []
    for geom in range(model.ngeom):
        name, material = model.geom(geom).name, int(model.geom_matid[geom])
        rgba = (model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]).tolist()
        rgba = _GOAL_RGBA if name == _GOAL else rgba
        if int(model.geom_group[geom]) not in _VISIBLE_GROUPS or rgba[3] == 0:
            continue
        entry: dict[str, Any] = {
            "body": int(model.geom_bodyid[geom]),
            "kind": _KINDS[int(model.geom_type[geom])],
            "size": model.geom_size[geom].tolist(),
            "position": model.geom_pos[geom].tolist(),
            "quaternion": model.geom_quat[geom].tolist(),
            "rgba": rgba,
        }
        if entry["kind"] == "mesh":
            mesh = int(model.geom_dataid[geom])
            if mesh not in used:
                used[mesh] = len(meshes)
                mesh_vertices, mesh_faces = _compact(model, mesh)
                meshes.append(
                    {
                        "first_vertex": sum(map(len, vertices)),
                        "vertices": len(mesh_vertices),
                        "first_face": sum(map(len, faces)),
                        "faces": len(mesh_faces),
                    }
                )
                vertices.append(mesh_vertices)
                faces.append(mesh_faces)
            entry["mesh"] = used[mesh]
        for lamp, names in enumerate(_LAMPS):
            if name == names[0] or (material >= 0 and model.material(material).name == names[1]):
                entry |= {"lamp": lamp, "lit": _LIT_RGBA, "rgba": _UNLIT_RGBA}
        geoms.append(entry)
    camera = int(model.camera("front_pixels").id)
    content = {
        "bodies": [model.body(body).name for body in range(model.nbody)],
        "geoms": geoms,
        "meshes": meshes,
        "camera": {
            "position": model.cam_pos[camera].tolist(),
            "quaternion": model.cam_quat[camera].tolist(),
            "fov_deg": float(model.cam_fovy[camera]),
        },
    }
    head = json.dumps(content).encode()
    head += b" " * (-len(head) % 4)
    return b"".join(
        (
            struct.pack("<I", len(head)),
            head,
            np.concatenate(vertices).astype("<f4").tobytes(),
            np.concatenate(faces).astype("<u4").tobytes(),
        )
    )


def _compact(model: Any, mesh: int) -> tuple[Any, Any]:
    """Return the vertices that the coarse faces still use, and the faces in their numbers."""
    first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    start, faces = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    kept, numbers = np.unique(model.mesh_face[start : start + faces], return_inverse=True)
    return model.mesh_vert[first : first + count][kept], numbers.reshape(-1, 3)
