"""The stripped simulator against OGBench's own environment."""

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from ogbench.manipspace.envs.scene_env import SceneEnv

from lwd.robots.sim.robot import SceneRobot
from lwd.robots.sim.simulator import LOCKED_DAMPING, SceneSimulator, compiled_scene, full_model
from lwd.robots.sim.tasks import GOALS, TASKS
from lwd.robots.sim.worlds import WORLDS
from lwd.types import Outcome


@pytest.fixture(scope="module")
def robot() -> SceneRobot:
    return SceneRobot(WORLDS["nominal"])


@pytest.fixture(scope="module")
def ogbench_env() -> SceneEnv:
    env = SceneEnv("scene", mode="task", ob_type="states", terminate_at_goal=False)
    env._mjcf_model = env.build_mjcf_model()
    env.compile_model_and_data()
    env._reset_next_step = False
    return env


def put_in_state(env: SceneEnv, sim: SceneSimulator, task: str) -> None:
    goal = GOALS[task]
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(sim.data.qpos.copy(), sim.data.qvel.copy(), np.array(sim.buttons))
    state = np.empty(mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(sim.model, sim.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(env.model, env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_kinematics(env.model, env.data)
    env.data.mocap_pos[env._cube_target_mocap_ids[0]] = sim.cube_goal_m
    env._target_button_states = np.array(goal.buttons_goal)
    env._target_drawer_pos, env._target_window_pos = goal.drawer_goal_m, goal.window_goal_m


def moves(sim: SceneSimulator, steps: int) -> Iterator[np.ndarray]:
    """Press button 1, then move at random."""
    drift = np.repeat(np.random.default_rng(1).uniform(-1, 1, (steps, 5)), 10, axis=0)
    for step in range(steps):
        if step < 22:
            above = np.add(sim.button_top_m(1), (0, 0, 0.05 if step < 15 else -0.03)) - sim.effector_m
            yield np.clip(np.array([*above / 0.05, 0.0, 1.0]), -1, 1)
        else:
            yield drift[step]


def test_each_step_gives_ogbenchs_commands_locks_and_success(robot: SceneRobot, ogbench_env: SceneEnv) -> None:
    """Steps start from one common state: contacts are chaotic; a last bit of the commands grows to 1e-3."""
    sim = robot.sim
    robot.reset(TASKS["rearrange_medium"], seed=3)
    pressed = False
    for action in moves(sim, 60):
        put_in_state(ogbench_env, sim, "rearrange_medium")
        sim.step(action)
        ogbench_env.step(action)
        np.testing.assert_allclose(sim.data.ctrl, ogbench_env.data.ctrl, atol=1e-12)
        np.testing.assert_allclose(sim.data.qpos, ogbench_env.data.qpos, atol=5e-3)
        assert sim.buttons == ogbench_env._cur_button_states.tolist()
        assert robot.success() == bool(ogbench_env._success)
        pressed |= sim.buttons[1] == 1
    assert pressed


def test_leaving_out_visual_geoms_and_the_forward_pass_changes_no_bit(robot: SceneRobot) -> None:
    sim, full = robot.sim, full_model()
    data = mujoco.MjData(full)
    robot.reset(TASKS["rearrange_medium"], seed=3)
    state = np.empty(mujoco.mj_stateSize(full, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(sim.model, sim.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(full, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    for action in moves(sim, 60):
        full.dof_damping[:] = sim.model.dof_damping
        sim.step(action)
        data.ctrl[:] = sim.data.ctrl
        mujoco.mj_step(full, data, nstep=25)
        np.testing.assert_array_equal(sim.data.qpos, data.qpos)
        mujoco.mj_forward(full, data)
        np.testing.assert_array_equal(sim.effector_m, data.site_xpos[sim._pinch])


def test_readings_match_ogbench(robot: SceneRobot, ogbench_env: SceneEnv) -> None:
    robot.reset(TASKS["put_in_drawer"], seed=5)
    put_in_state(ogbench_env, robot.sim, "put_in_drawer")
    for _ in range(12):
        robot.sim.step(np.array([0.3, -0.5, -1.0, 0.4, 1.0]))
        ogbench_env.step(np.array([0.3, -0.5, -1.0, 0.4, 1.0]))
    theirs = ogbench_env.compute_ob_info()
    for name, ours in robot.privileged().items():
        if name in theirs:
            np.testing.assert_allclose(ours, np.ravel(theirs[name]) if np.ndim(ours) else theirs[name], atol=1e-5)


@pytest.mark.parametrize("task", list(TASKS))
def test_success_agrees_with_ogbench_at_start_and_goal(robot: SceneRobot, ogbench_env: SceneEnv, task: str) -> None:
    robot.reset(TASKS[task], seed=0)
    sim, goal = robot.sim, GOALS[task]
    assert not robot.success()
    sim.data.qpos[sim._cube_q : sim._cube_q + 3] = sim.cube_goal_m
    sim.data.qpos[sim._drawer_q], sim.data.qpos[sim._window_q] = goal.drawer_goal_m, goal.window_goal_m
    sim.buttons = list(goal.buttons_goal)
    assert robot.success()
    put_in_state(ogbench_env, sim, task)
    cubes, buttons, drawer, window = ogbench_env._compute_successes()
    assert all(cubes)
    assert all(buttons)
    assert drawer
    assert window


def test_a_locked_drawer_does_not_move_and_an_unlocked_one_does(robot: SceneRobot) -> None:
    sim = robot.sim
    robot.reset(TASKS["press_button"], seed=0)
    assert sim.model.dof_damping[sim._drawer_v] == LOCKED_DAMPING
    for buttons, moves in (([0, 0], False), ([1, 1], True)):
        robot.reset(TASKS["press_button"], seed=0)
        sim.buttons = buttons
        sim._write_locks()
        before = sim.drawer_m
        sim.data.qfrc_applied[sim._drawer_v] = -20.0
        for _ in range(10):
            sim.step(np.zeros(5))
        sim.data.qfrc_applied[sim._drawer_v] = 0.0
        assert (before - sim.drawer_m > 0.05) == moves


def test_starts_are_drawn_within_the_worlds_spread(robot: SceneRobot) -> None:
    starts = []
    for seed in range(40):
        robot.reset(TASKS["move_cube"], seed)
        starts.append(robot.sim.cube_m[:2] - GOALS["move_cube"].cube_start_m[:2])
    largest = np.abs(starts).max(axis=0)
    assert (largest <= 0.03).all()
    assert (largest > 0.02).all()


def test_simulators_share_one_compilation_but_no_locks() -> None:
    first, second = SceneSimulator(WORLDS["nominal"]), SceneSimulator(WORLDS["nominal"])
    first.buttons = [1, 1]
    first._write_locks()
    second._write_locks()
    assert first.model.dof_damping[first._drawer_v] != second.model.dof_damping[second._drawer_v]
    assert compiled_scene().model.dof_damping[first._drawer_v] not in (LOCKED_DAMPING,)


def test_the_shifted_world_is_heavier_and_slipperier() -> None:
    nominal, shifted = (SceneSimulator(WORLDS[name]) for name in ("nominal", "shifted"))
    cube = nominal.model.body("object_0").id
    geom = nominal.model.geom("object_0").id
    # The solver's scaling must follow the mass, or grasps blow up.
    assert shifted.model.body_invweight0[cube, 0] == pytest.approx(0.5 * nominal.model.body_invweight0[cube, 0])
    assert shifted.model.body_mass[cube] == pytest.approx(2 * nominal.model.body_mass[cube])
    assert shifted.model.geom_friction[geom, 0] == pytest.approx(0.8 * nominal.model.geom_friction[geom, 0])


def test_a_simulation_that_blows_up_is_truncated_at_its_last_good_observation(robot: SceneRobot) -> None:
    robot.reset(TASKS["press_button"], seed=0)
    good = robot.step(np.zeros(5, np.float32)).observation
    robot.sim.data.qvel[robot.sim._drawer_v] = np.inf
    result = robot.step(np.zeros(5, np.float32))
    assert result.outcome is Outcome.TRUNCATED
    np.testing.assert_array_equal(result.observation.state, good.state)
    robot.reset(TASKS["press_button"], seed=0)
    assert robot.step(np.zeros(5, np.float32)).outcome is None


def test_a_cube_out_of_reach_is_a_failure(robot: SceneRobot) -> None:
    robot.reset(TASKS["move_cube"], seed=0)
    robot.sim.data.qpos[robot.sim._cube_q] = 1.5
    assert robot.step(np.zeros(5, np.float32)).outcome is Outcome.FAILURE
