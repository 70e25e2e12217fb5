"""The OGBench scene as a `Robot`."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from lwd.driving import DriveAxis, Driving
from lwd.errors import ConfigError, RobotFault
from lwd.robots.protocol import BodyPoses
from lwd.robots.sim.embodiments import CAMERA_PIXELS, PIXEL_EMBODIMENT, STATE_EMBODIMENT, ObservationKind
from lwd.robots.sim.observation import full_state, proprioception
from lwd.robots.sim.progress import REACHED_M, Progress, SceneState, sub_steps_of
from lwd.robots.sim.rendering import SceneCamera
from lwd.robots.sim.simulator import SceneSimulator, yaw_of_quat
from lwd.robots.sim.tasks import GOALS, SceneGoal, task_named
from lwd.robots.sim.worlds import World
from lwd.types import ByteArray, Embodiment, FloatArray, Observation, Outcome, StepResult, Task

_AXES = (
    # Full deflection of the action moves 5 cm per control step, one metre a second: too fast for a hand on a keyboard.
    DriveAxis(label="x", low=-1, high=1, speed=0.5, minus="away", plus="towards you"),
    DriveAxis(label="y", low=-1, high=1, speed=0.5, minus="left", plus="right"),
    DriveAxis(label="z", low=-1, high=1, speed=0.5, minus="down", plus="up"),
    DriveAxis(label="yaw", low=-1, high=1, speed=0.5, minus="turn right", plus="turn left"),
    DriveAxis(label="hand", low=-1, high=1, speed=1, minus="open hand", plus="close hand"),
)


class SceneRobot:
    """A simulated UR5e at the OGBench scene; success is OGBench's own test of cube, buttons, drawer,
    window."""

    def __init__(self, world: World, observation: ObservationKind = "state") -> None:
        if observation not in ("state", "pixels"):
            raise ConfigError(f"observation is {observation!r}; it must be 'state' or 'pixels'")
        self.world = world
        self.sim = SceneSimulator(world)
        self._kind = observation
        self._camera: SceneCamera | None = None
        self._task: Task | None = None
        self._goal: SceneGoal = GOALS["open_drawer"]
        self._progress: Progress | None = None
        self._steps = 0
        self._outcome: Outcome | None = None
        self._scores: tuple[float, ...] = ()
        self._delayed: deque[FloatArray] = deque()
        self._held = False
        """Whether what is delayed is dropped at the next step; any thread may say so."""
        self._noise = np.random.default_rng(0)
        self._observation: Observation

    @property
    def embodiment(self) -> Embodiment:
        return STATE_EMBODIMENT if self._kind == "state" else PIXEL_EMBODIMENT

    @property
    def driving(self) -> Driving:
        return Driving(control_hz=self.embodiment.control_hz, axes=_AXES)

    def reset(self, task: Task, seed: int) -> Observation:
        """Draw a start of the task; the same seed gives the same start.

        Raises:
            UnknownTask: if the task is not one of this scene's.
        """
        self._task = task_named(task.name)
        self._goal = goal = GOALS[task.name]
        starts, self._noise = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        self.sim.reset(
            starts,
            cube_start_m=goal.cube_start_m,
            cube_goal_m=goal.cube_goal_m,
            buttons=goal.buttons_start,
            drawer_m=goal.drawer_start_m,
            window_m=goal.window_start_m,
        )
        self._progress = Progress(sub_steps_of(self._task.sub_steps, goal), self._scene_state())
        self._scores = self._progress.observe(self._scene_state())
        self._steps, self._outcome = 0, None
        self._held = True
        self._observation = self._observe()
        return self._observation

    def step(self, action: FloatArray) -> StepResult:
        """Execute one action (5,) in [-1, 1]: effector x, y, z (5 cm), yaw (0.3 rad), gripper (+1 closes).

        The outcome is FAILURE when the cube leaves the workspace, TRUNCATED when the simulation blows up.

        Raises:
            RobotFault: if the robot was not reset, or its episode is over.
        """
        if self._task is None or self._progress is None or self._outcome is not None:
            raise RobotFault("the robot has no episode running; call reset(task, seed) before step(action)")
        if self._held:
            self._held = False
            self._delayed = deque(np.zeros(5, np.float32) for _ in range(self.world.action_latency_steps))
        self._delayed.append(action)
        executed = self._delayed.popleft().astype(np.float64)
        if self.world.action_noise:
            executed = np.clip(executed + self._noise.normal(0, self.world.action_noise, 5), -1, 1)
        self.sim.step(executed)
        self._steps += 1
        if self.sim.unstable:
            # What the scene would have become is unknown; the last good observation stands for it.
            self._outcome = Outcome.TRUNCATED
            return StepResult(observation=self._observation, outcome=self._outcome, sub_step_scores=self._scores)
        self._scores = self._progress.observe(self._scene_state())
        if self.success():
            self._outcome = Outcome.SUCCESS
        elif self.sim.cube_lost:
            self._outcome = Outcome.FAILURE
        elif self._steps >= self._task.time_limit:
            self._outcome = Outcome.TIME_LIMIT
        self._observation = self._observe()
        return StepResult(observation=self._observation, outcome=self._outcome, sub_step_scores=self._scores)

    def hold(self) -> None:
        """Drop what is delayed; the simulation advances in `step` alone, so it stands still."""
        self._held = True

    def success(self) -> bool:
        """OGBench's success test: cube, drawer and window within 4 cm of their goals, button states equal."""
        sim, goal = self.sim, self._goal
        return (
            tuple(sim.buttons) == goal.buttons_goal
            and abs(sim.drawer_m - goal.drawer_goal_m) <= REACHED_M
            and abs(sim.window_m - goal.window_goal_m) <= REACHED_M
            and float(np.linalg.norm(sim.cube_m - sim.cube_goal_m)) <= REACHED_M
        )

    def privileged(self) -> Mapping[str, Any]:
        """The scene in OGBench's own names, as its oracles read it."""
        sim = self.sim
        return {
            "proprio/effector_pos": sim.effector_m.copy(),
            "proprio/effector_yaw": np.array([sim.effector_yaw]),
            "proprio/gripper_opening": np.array([sim.gripper_opening]),
            "proprio/gripper_contact": np.array([sim.gripper_contact]),
            "privileged/block_0_pos": sim.cube_m.copy(),
            "privileged/block_0_yaw": np.array([yaw_of_quat(*sim.cube_quat.tolist())]),
            "privileged/button_0_state": sim.buttons[0],
            "privileged/button_1_state": sim.buttons[1],
            "privileged/button_0_top_pos": sim.button_top_m(0).copy(),
            "privileged/button_1_top_pos": sim.button_top_m(1).copy(),
            "privileged/drawer_pos": sim.drawer_m,
            "privileged/drawer_handle_pos": sim.drawer_handle_m.copy(),
            "privileged/drawer_handle_yaw": np.array([sim.drawer_yaw]),
            "privileged/window_pos": sim.window_m,
            "privileged/window_handle_pos": sim.window_handle_m.copy(),
            "privileged/window_handle_yaw": np.array([sim.window_yaw]),
            "privileged/cube_in_drawer": sim.cube_in_drawer,
            "privileged/cube_goal_pos": sim.cube_goal_m.copy(),
        }

    def body_poses(self) -> BodyPoses:
        """The bodies of the physics; lamps 0 and 1 are the buttons, lit where drawer and window are unlocked."""
        data = self.sim.data
        poses_N7 = np.concatenate([data.xpos, data.xquat], axis=1, dtype=np.float32)
        return BodyPoses(poses_N7=poses_N7, lamps=self.sim.buttons[0] | self.sim.buttons[1] << 1)

    def render(self, height: int, width: int) -> ByteArray:
        """Draw the scene from the front camera, (height, width, 3); slow in software (see rendering.py)."""
        if self._camera is None or self._camera.size != (height, width):
            if self._camera is not None:
                self._camera.close()
            self._camera = SceneCamera(height, width, offset_m=self.world.camera_offset_m)
        return self._camera.draw(self.sim)

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _scene_state(self) -> SceneState:
        sim = self.sim
        cube, goal = sim.cube_m.tolist(), sim.cube_goal_m.tolist()
        return SceneState(
            cube_m=(cube[0], cube[1], cube[2]),
            cube_goal_m=(goal[0], goal[1], goal[2]),
            cube_in_drawer=sim.cube_in_drawer,
            buttons=(sim.buttons[0], sim.buttons[1]),
            drawer_m=sim.drawer_m,
            window_m=sim.window_m,
        )

    def _observe(self) -> Observation:
        if self._kind == "state":
            return Observation(state=full_state(self.sim))
        return Observation(
            state=np.array(proprioception(self.sim, self.sim.effector_yaw), dtype=np.float32),
            images={"front": self.render(CAMERA_PIXELS, CAMERA_PIXELS)},
        )
