"""The physics of the OGBench scene, stripped of what costs time and changes nothing.

OGBench's environment is bound by Python and by work done twice: its own step computes the full observation
three times and writes every colour and lock state each step. Here the model is compiled once per process
without its visual geoms and the arm's self-collision tests (bit-identical trajectories), observations are
read from the arrays by index, inverse kinematics runs on preallocated buffers, and positions are refreshed by
kinematics alone after a step.
"""

import functools
import itertools
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwd.robots.sim.worlds import World

if sys.platform == "linux":
    # Read once, when mujoco is imported; its default needs a display and warns where there is none.
    os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
from ogbench.manipspace import mjcf_utils
from ogbench.manipspace.envs.scene_env import SceneEnv

Array = npt.NDArray[np.float64]

SUBSTEPS = 25
UNLOCKED_DAMPING, LOCKED_DAMPING = 2.0, 1e6
BUTTON_PRESSED_M = -0.02
ACTION_SCALE = np.array([0.05, 0.05, 0.05, 0.3, 1.0])
"""One action unit in m, m, m, rad, gripper fraction per control step."""
OUT_OF_REACH_M = 0.2
_BLOW_UPS = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
ARM_START_LOW, ARM_START_HIGH = np.array([0.25, -0.2, 0.20]), np.array([0.6, 0.2, 0.35])


@dataclass(frozen=True, kw_only=True)
class _Compiled:
    """What every simulator of this process shares."""

    model: Any
    """MjModel without visual geoms; copied by each simulator, because locks are written into it."""
    ik_model: Any
    ik_site: int
    home: Array
    workspace: Array
    arm_actuators: list[int]
    gripper_actuator: int
    attach_offset: Array
    attach_quat: Array


def _ogbench_scene() -> SceneEnv:
    """Build OGBench's environment and compile its model, without starting an episode."""
    env = SceneEnv("scene", mode="task", ob_type="states", terminate_at_goal=False)
    env._mjcf_model = env.build_mjcf_model()
    env.compile_model_and_data()
    return env


@functools.cache
def full_model() -> Any:
    """Return the MjModel with all its geoms, for rendering; compiled once per process."""
    return _ogbench_scene().model


def _exclude_self_collisions(spec: Any, model: Any) -> None:
    """Do not test the arm's links against each other; only the two fingers' pads ever touch.

    In 4,000 steps of demonstrations and random behaviour no other pair did, and trajectories stay
    bit-identical; the tests cost 13 % of the physics.
    """
    bodies = {int(body) for body, solid in zip(model.geom_bodyid, model.geom_contype, strict=True) if solid}
    links = [name for name in (model.body(body).name for body in sorted(bodies)) if name.startswith("ur5e/")]
    for first, second in itertools.combinations(links, 2):
        if not (first.endswith("_pad") and second.endswith("_pad")):
            spec.add_exclude(bodyname1=first, bodyname2=second)


@functools.cache
def compiled_scene() -> _Compiled:
    """Compile the physics once per process (about 2 s)."""
    env = _ogbench_scene()
    spec = mujoco.MjSpec.from_string(mjcf_utils.to_string(env.mjcf_model), assets=mjcf_utils.get_assets(env.mjcf_model))
    spec.compiler.discardvisual = True
    _exclude_self_collisions(spec, env.model)
    model = spec.compile()
    model.opt.timestep = env.model.opt.timestep
    # OGBench sets its own PD gains after compilation.
    model.actuator_gainprm[:] = env.model.actuator_gainprm
    model.actuator_biasprm[:] = env.model.actuator_biasprm
    return _Compiled(
        model=model,
        ik_model=env._ik._model,
        ik_site=int(env._ik._site_ids[0]),
        home=np.array(env._home_qpos),
        workspace=np.array(env._workspace_bounds),
        arm_actuators=[int(i) for i in env._arm_actuator_ids],
        gripper_actuator=int(env._gripper_actuator_ids[0]),
        attach_offset=np.array(env._T_pa.translation()),
        attach_quat=np.array(env._T_pa.rotation().wxyz),
    )


def yaw_of_quat(w: float, x: float, y: float, z: float) -> float:
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


class SceneSimulator:
    """One scene: arm, cube, two buttons, drawer, window."""

    def __init__(self, world: World) -> None:
        shared = compiled_scene()
        self.world = world
        self.model = mujoco.MjModel.__copy__(shared.model)
        self.data = mujoco.MjData(self.model)
        self._quat = np.empty(4)
        joint = self.model.joint
        self._home = shared.home
        self._workspace = shared.workspace
        self._gripper_q = int(joint("ur5e/robotiq/right_driver_joint").qposadr[0])
        self._arm_ctrl = shared.arm_actuators
        self._gripper_ctrl = shared.gripper_actuator
        self._pinch = int(self.model.site("ur5e/robotiq/pinch").id)
        self._pad = int(self.model.body("ur5e/robotiq/right_pad").id)
        self._cube_q = int(joint("object_joint_0").qposadr[0])
        self._button_q = [int(joint(f"buttonbox_joint_{i}").qposadr[0]) for i in (0, 1)]
        self._button_v = [int(joint(f"buttonbox_joint_{i}").dofadr[0]) for i in (0, 1)]
        self._drawer_q, self._drawer_v = (
            int(a[0]) for a in (joint("drawer_slide").qposadr, joint("drawer_slide").dofadr)
        )
        self._window_q, self._window_v = (
            int(a[0]) for a in (joint("window_slide").qposadr, joint("window_slide").dofadr)
        )
        self._button_sites = [int(self.model.site(f"btntop_{i}").id) for i in (0, 1)]
        self._drawer_site = int(self.model.site("drawer_handle_center").id)
        self._window_site = int(self.model.site("window_handle_center").id)
        self._target_mocap = int(self.model.body("object_target_0").mocapid[0])
        self._attach_offset, self._attach_quat = shared.attach_offset, shared.attach_quat
        self._ik = InverseKinematics(shared.ik_model, shared.ik_site)
        self._apply_world()
        mujoco.mj_kinematics(self.model, self.data)
        # Drawer and window only slide, so their handles never turn.
        self.drawer_yaw = self._site_yaw(self._drawer_site)
        self.window_yaw = self._site_yaw(self._window_site)
        self.buttons = [0, 0]
        self._locks_written: list[int] = []
        self.cube_goal_m = np.zeros(3)

    def _apply_world(self) -> None:
        model, world = self.model, self.world
        cube = self.model.body("object_0").id
        model.body_mass[cube] *= world.cube_mass_scale
        model.body_inertia[cube] *= world.cube_mass_scale
        pads = [i for i in range(model.ngeom) if model.body(model.geom_bodyid[i]).name.endswith("_pad")]
        for geom in [int(self.model.geom("object_0").id), *pads]:
            model.geom_friction[geom, 0] *= world.friction_scale
        for dof in (self._drawer_v, self._window_v):
            model.dof_frictionloss[dof] *= world.slide_friction_scale
        # Constraint softness is scaled by inverse weights that MuJoCo derives from the masses.
        mujoco.mj_setConst(model, self.data)

    @property
    def effector_m(self) -> Array:
        return self.data.site_xpos[self._pinch]  # type: ignore[no-any-return]

    @property
    def effector_yaw(self) -> float:
        return self._site_yaw(self._pinch)

    def _site_yaw(self, site: int) -> float:
        mujoco.mju_mat2Quat(self._quat, self.data.site_xmat[site])
        return yaw_of_quat(*self._quat.tolist())

    @property
    def gripper_opening(self) -> float:
        """0 open, 1 closed (OGBench's convention)."""
        return min(max(float(self.data.qpos[self._gripper_q]) / 0.8, 0.0), 1.0)

    @property
    def gripper_contact(self) -> float:
        force = self.data.cfrc_ext[self._pad].tolist()
        return min(math.sqrt(sum(f * f for f in force)) / 50, 1.0)

    @property
    def cube_m(self) -> Array:
        return self.data.qpos[self._cube_q : self._cube_q + 3]  # type: ignore[no-any-return]

    @property
    def cube_quat(self) -> Array:
        return self.data.qpos[self._cube_q + 3 : self._cube_q + 7]  # type: ignore[no-any-return]

    def button_m(self, index: int) -> float:
        return float(self.data.qpos[self._button_q[index]])

    def button_m_per_s(self, index: int) -> float:
        return float(self.data.qvel[self._button_v[index]])

    def button_top_m(self, index: int) -> Array:
        return self.data.site_xpos[self._button_sites[index]]  # type: ignore[no-any-return]

    @property
    def drawer_m(self) -> float:
        return float(self.data.qpos[self._drawer_q])

    @property
    def window_m(self) -> float:
        return float(self.data.qpos[self._window_q])

    @property
    def drawer_m_per_s(self) -> float:
        return float(self.data.qvel[self._drawer_v])

    @property
    def window_m_per_s(self) -> float:
        return float(self.data.qvel[self._window_v])

    @property
    def drawer_handle_m(self) -> Array:
        return self.data.site_xpos[self._drawer_site]  # type: ignore[no-any-return]

    @property
    def window_handle_m(self) -> Array:
        return self.data.site_xpos[self._window_site]  # type: ignore[no-any-return]

    @property
    def cube_in_drawer(self) -> bool:
        """OGBench's own box test, with a lower lid: a cube still carried above the drawer is not in it."""
        x, y, z = self.cube_m.tolist()
        handle_y = float(self.drawer_handle_m[1])
        return bool(0.21 <= x <= 0.45 and handle_y - 0.27 <= y <= handle_y - 0.07 and 0.0 <= z <= 0.10)

    @property
    def unstable(self) -> bool:
        """Whether MuJoCo's solver blew up since the reset; it then resets its own state behind our back."""
        return any(int(self.data.warning[kind].number) for kind in _BLOW_UPS)

    @property
    def cube_lost(self) -> bool:
        """OGBench's own test of numerical health: the cube left the workspace by far."""
        cube = self.cube_m
        low, high = self._workspace
        return bool((cube <= low - OUT_OF_REACH_M).any() or (cube >= high + OUT_OF_REACH_M).any())

    def reset(
        self,
        generator: np.random.Generator,
        *,
        cube_start_m: tuple[float, float, float],
        cube_goal_m: tuple[float, float, float] | None,
        buttons: tuple[int, int],
        drawer_m: float,
        window_m: float,
    ) -> None:
        """Draw a start: cube within the world's spread at any yaw, any arm pose, slides within 1 cm."""
        model, data, world = self.model, self.data, self.world
        mujoco.mj_resetData(model, data)
        effector = generator.uniform(ARM_START_LOW, ARM_START_HIGH)
        effector_yaw = generator.uniform(-np.pi, np.pi)
        spread = generator.uniform(-world.cube_spread_m, world.cube_spread_m, size=2)
        cube_yaw = generator.uniform(0, 2 * np.pi)
        slides = generator.uniform(-0.01, 0.01, size=2)

        data.qpos[:6] = self._solve(effector, effector_yaw, self._home)
        cube = np.array(cube_start_m)
        cube[:2] += spread + np.array(world.cube_offset_m)
        q = self._cube_q
        data.qpos[q : q + 3] = cube
        data.qpos[q + 3 : q + 7] = (math.cos(cube_yaw / 2), 0, 0, math.sin(cube_yaw / 2))
        data.qpos[self._drawer_q] = min(max(drawer_m + slides[0], -0.16), 0.0)
        data.qpos[self._window_q] = min(max(window_m + slides[1], 0.0), 0.2)
        self.cube_goal_m = cube.copy() if cube_goal_m is None else np.array(cube_goal_m)
        data.mocap_pos[self._target_mocap] = self.cube_goal_m
        self.buttons = list(buttons)
        self._locks_written = []
        self._write_locks()
        mujoco.mj_forward(model, data)

    def step(self, action: Array) -> None:
        """Execute one action (5,) in [-1, 1] for 50 ms: OGBench's relative effector control."""
        data = self.data
        self._set_control(action)
        before = [self.button_m(0), self.button_m(1)]
        mujoco.mj_step(self.model, data, nstep=SUBSTEPS)
        mujoco.mj_rnePostConstraint(self.model, data)  # contact forces, for gripper_contact
        for index in (0, 1):
            if before[index] > BUTTON_PRESSED_M >= self.button_m(index):
                self.buttons[index] = 1 - self.buttons[index]
        self._write_locks()
        # mj_step leaves site positions one substep behind qpos; OGBench pays a whole mj_forward for them.
        mujoco.mj_kinematics(self.model, data)

    def _write_locks(self) -> None:
        if self._locks_written == self.buttons:
            return
        for dof, button in zip((self._drawer_v, self._window_v), self.buttons, strict=True):
            self.model.dof_damping[dof] = UNLOCKED_DAMPING if button else LOCKED_DAMPING
        self._locks_written = list(self.buttons)

    def _set_control(self, action: Array) -> None:
        move = action * ACTION_SCALE
        target = self.effector_m + move[:3]
        np.clip(target, self._workspace[0], self._workspace[1], out=target)
        yaw = math.remainder(self.effector_yaw + float(move[3]), 2 * math.pi)
        closed = min(max(self.gripper_opening + float(move[4]), 0.0), 1.0)
        ctrl = self.data.ctrl
        ctrl[self._arm_ctrl] = self._solve(target, yaw, self.data.qpos[:6])
        ctrl[self._gripper_ctrl] = 255.0 * closed

    def _solve(self, effector_m: Array, yaw: float, start: Array) -> Array:
        # Gripper down (0, 1, 0, 0), then turned about z by yaw; then pinch -> attachment site.
        half = yaw / 2
        down = np.array([0.0, math.cos(half), math.sin(half), 0.0])
        quat, offset = np.empty(4), np.empty(3)
        mujoco.mju_rotVecQuat(offset, self._attach_offset, down)
        mujoco.mju_mulQuat(quat, down, self._attach_quat)
        return self._ik.solve(effector_m + offset, quat, start)


class InverseKinematics:
    """OGBench's damped least-squares inverse kinematics, without its allocations."""

    _MAX_CHANGE_RAD = math.radians(45)
    _THRESHOLD = 1e-4

    def __init__(self, model: Any, site: int) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._site = site
        self._error = np.empty(6)
        self._quats = np.empty((3, 4))
        self._jacobian = np.empty((6, model.nv))
        self._damping = 1e-12 * np.eye(6)

    def solve(self, pos_m: Array, quat: Array, start: Array) -> Array:
        """Return joint angles (6,) whose site is within 1e-4 m and rad of the pose; 20 iterations at most."""
        model, data, site, error = self._model, self._data, self._site, self._error
        current, inverse, difference = self._quats
        jacobian = self._jacobian
        data.qpos[:] = start
        for _ in range(20):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            np.subtract(pos_m, data.site_xpos[site], out=error[:3])
            mujoco.mju_mat2Quat(current, data.site_xmat[site])
            mujoco.mju_negQuat(inverse, current)
            mujoco.mju_mulQuat(difference, quat, inverse)
            mujoco.mju_quat2Vel(error[3:], difference, 1.0)
            a, b, c, d, e, f = error.tolist()
            if (
                math.sqrt(a * a + b * b + c * c) <= self._THRESHOLD
                and math.sqrt(d * d + e * e + f * f) <= self._THRESHOLD
            ):
                break
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
            update = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + self._damping, error)
            largest = float(np.abs(update).max())
            if largest > self._MAX_CHANGE_RAD:
                update *= self._MAX_CHANGE_RAD / largest
            mujoco.mj_integratePos(model, data.qpos, update, 1.0)
        return np.array(data.qpos)
