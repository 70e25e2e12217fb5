"""One episode of one robot: who acts at each step, and what gets recorded."""

import importlib.metadata
import io
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lwd.errors import ActionRejected, ConfigError, RobotFault, ShapeError
from lwd.robots.gate import Gate
from lwd.robots.protocol import ObservingRobot, Robot, driving_of
from lwd.types import (
    OBSERVE,
    Command,
    Controller,
    Episode,
    EpisodeInfo,
    FloatArray,
    Intent,
    Observation,
    Outcome,
    RobotView,
    Source,
    Task,
)

SOFTWARE_VERSION = importlib.metadata.version("lwd")


class SessionOperator(Protocol):
    """What a session needs of an operator (structurally an `lwd.operators.protocol.Operator`)."""

    def begin(self, view: RobotView, seed: int) -> None: ...

    def poll(self, view: RobotView) -> Command: ...


class LazyMapping(Mapping[str, Any]):
    """Calls its source when somebody first looks: most steps nobody asks for privileged state."""

    def __init__(self, source: Callable[[], Mapping[str, Any]]) -> None:
        self._source = source
        self._content: Mapping[str, Any] | None = None

    def _read(self) -> Mapping[str, Any]:
        if self._content is None:
            self._content = self._source()
        return self._content

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class EpisodeSession:
    """Runs one episode step by step; resets the robot when constructed.

    At each step the operator is asked first. While it takes over, its actions are executed and recorded as
    `Controller.HUMAN`, and the policy's queued chunk is dropped, so that the policy replans from where the
    human left off. While it holds the robot there are no steps. An operator's label ends the episode; before the
    first step it is kept until one step has been held, because an episode has at least one step; of a robot that
    nobody knows how to hold with an action, nothing is kept then.

    Raises:
        ConfigError: if the policy version does not fit the source.
    """

    def __init__(
        self,
        robot: Robot,
        task: Task,
        instruction: str,
        *,
        seed: int,
        robot_id: str,
        source: Source,
        policy_version: int,
        world: str,
        operator: SessionOperator | None = None,
        gate: Gate | None = None,
        episode_id: str | None = None,
        started_at_s: float | None = None,
    ) -> None:
        if policy_version < -1:
            raise ConfigError(f"policy_version is {policy_version}; use -1 where no policy acts")
        self._robot, self._task, self._operator = robot, task, operator
        self._gate = gate or Gate(robot)
        self._embodiment = robot.embodiment
        self._identity = {
            "episode_id": episode_id or uuid.uuid4().hex,
            "robot_id": robot_id,
            "embodiment": self._embodiment.name,
            "task": task.name,
            "instruction": instruction,
            "source": source,
            "policy_version": policy_version,
            "control_hz": self._embodiment.control_hz,
            "seed": seed,
            "world": world,
            "started_at_s": time.time() if started_at_s is None else started_at_s,
            "software_version": SOFTWARE_VERSION,
        }
        self._queue: deque[FloatArray] = deque()
        self.plans = 0
        """How often the queued actions were replaced or dropped: tells whether a prediction is still wanted."""
        self._command: Command | None = None
        self._outcome: Outcome | None = None
        self._label: Outcome | None = None
        self._scores = (0.0,) * len(task.sub_steps)
        self._discarded = False
        self._looked = False
        self._next_look_s = 0.0
        self._operator_ids: list[str] = []
        self._operator_steps: list[int] = []
        self._actions: list[FloatArray] = []
        self._controllers: list[int] = []
        self._states: list[FloatArray] = []
        self._frames: dict[str, list[bytes]] = {name: [] for name in self._embodiment.cameras}
        self._see(self._gate.reset(task, seed))
        if operator is not None:
            operator.begin(self.view, seed)

    @property
    def episode_id(self) -> str:
        return str(self._identity["episode_id"])

    @property
    def task(self) -> Task:
        return self._task

    @property
    def instruction(self) -> str:
        return str(self._identity["instruction"])

    @property
    def observation(self) -> Observation:
        return self._observation

    @property
    def steps(self) -> int:
        return len(self._actions)

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    @property
    def done(self) -> bool:
        return self._outcome is not None

    @property
    def discarded(self) -> bool:
        """Whether the operator ended the episode and wants nothing of it kept."""
        return self._discarded

    @property
    def sub_step_scores(self) -> tuple[float, ...]:
        return self._scores

    @property
    def queued(self) -> int:
        """Policy actions that wait to be executed."""
        return len(self._queue)

    @property
    def queue_OA(self) -> FloatArray:
        """Policy actions (O, A) that wait to be executed."""
        return np.array(self._queue, np.float32).reshape(-1, self._embodiment.action_size)

    @property
    def human_acts(self) -> bool:
        """Whether the last step was the operator's."""
        return bool(self._controllers) and self._controllers[-1] == Controller.HUMAN

    @property
    def view(self) -> RobotView:
        return RobotView(
            robot_id=str(self._identity["robot_id"]),
            task=self._task,
            step=self.steps,
            observation=self._observation,
            sub_step_scores=self._scores,
            privileged=LazyMapping(self._robot.privileged),
            executed=self._actions[-1] if self._actions else None,
        )

    @property
    def needs_chunk(self) -> bool:
        """Whether the next step needs a policy action and none is queued; asks the operator once per step."""
        return not self.done and self._next_command().intent is Intent.OBSERVE and not self._queue

    @property
    def held(self) -> bool:
        """Whether the operator holds the robot; then it is asked again each time, and `step` must wait."""
        return not self.done and self._next_command().intent is Intent.HOLD

    def load_chunk(self, chunk_HA: FloatArray) -> None:
        """Queue a policy's actions; what was still queued is replaced.

        Raises:
            ShapeError: if the chunk is not (H, A) with H >= 1.
            ActionRejected: if an action is not finite.
        """
        self._queue = deque(self._checked(chunk_HA))
        self.plans += 1

    def join_chunk(self, chunk_HA: FloatArray, *, executed: int) -> None:
        """Let what is queued fade into a chunk that was predicted `executed` steps ago.

        Its first `executed` actions are over. Where both have an action, the weight of the new one grows in equal
        steps from the queue's first action to its last, so no command jumps at the seam.

        Raises:
            ShapeError: if the chunk is not (H, A), or all of it is over.
            ActionRejected: if an action is not finite.
        """
        rest_HA = self._checked(chunk_HA)[executed:].copy()
        if not len(rest_HA):
            raise ShapeError(f"all {executed} actions of the chunk are over; ask for it with fewer actions left")
        overlap = min(len(self._queue), len(rest_HA))
        for number in range(overlap):
            weight = (number + 1) / (overlap + 1)
            rest_HA[number] = weight * rest_HA[number] + (1 - weight) * self._queue[number]
        self._queue = deque(rest_HA)
        self.plans += 1

    def _checked(self, chunk_HA: FloatArray) -> FloatArray:
        chunk_HA = np.asarray(chunk_HA, dtype=np.float32)
        size = self._embodiment.action_size
        if chunk_HA.ndim != 2 or chunk_HA.shape[0] < 1 or chunk_HA.shape[1] != size:
            raise ShapeError(f"chunk has shape {chunk_HA.shape}; expected (H >= 1, {size})")
        self._reject_non_finite(chunk_HA)
        return chunk_HA

    def step(self) -> None:
        """Execute one control step, the operator's or the policy's.

        Raises:
            RobotFault: if the episode is over, or a policy action is needed and none was loaded.
            ActionRejected: if the action is not finite or has the wrong shape; nothing is executed.
        """
        if self.done:
            raise RobotFault(f"episode {self.episode_id} is over ({self._outcome}); start a new session")
        if self.held:
            raise RobotFault(f"episode {self.episode_id} is held by its operator; step again once `held` is false")
        command, self._command = self._next_command(), None
        if command.intent is Intent.DISCARD:
            self._drop_queue()
            self._discarded = True
            return
        if command.intent is Intent.LABEL:
            if command.outcome is None:
                raise ConfigError("a LABEL command needs an outcome")
            self._drop_queue()
            self._label = command.outcome
            if self._actions:
                self._outcome = command.outcome
                return
            command = OBSERVE
        if command.intent is Intent.TAKE_OVER:
            if command.action is None:
                raise ConfigError("a TAKE_OVER command needs an action")
            action, controller = np.asarray(command.action, dtype=np.float32), Controller.HUMAN
            self._drop_queue()
            self._note_operator(command.operator_id)
        elif self._queue:
            action, controller = self._queue.popleft(), Controller.POLICY
        elif self._label is not None:
            still = driving_of(self._robot).still(self._observation.state, None)
            if still is None:
                # No action is known that moves nothing, and nothing was recorded yet.
                self._discarded = True
                return
            action, controller = still, Controller.HUMAN
        else:
            raise RobotFault(f"episode {self.episode_id} has no action to execute; call load_chunk() first")
        self._execute(action, controller)

    def look(self) -> None:
        """Observe a robot that is held, at its control rate at most: whoever acts next begins from what it is then.

        Raises:
            RobotFault: if the robot does not answer.
        """
        now_s = time.monotonic()
        if now_s >= self._next_look_s and isinstance(self._robot, ObservingRobot):
            self._next_look_s = now_s + 1 / self._embodiment.control_hz
            self._observation, self._looked = self._robot.observe(), True

    def replan(self) -> None:
        """Drop what was planned and asked for before: the loop stood still."""
        self._command = None
        self._drop_queue()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self.plans += 1

    def _execute(self, action: FloatArray, controller: Controller) -> None:
        self._reject_non_finite(action)
        if self._looked:
            # Recorded is what was seen before this action, not what was seen before the hold.
            self._states.pop()
            for frames in self._frames.values():
                frames.pop()
            self._see(self._observation)
        executed = np.clip(action, self._embodiment.action_low, self._embodiment.action_high)
        result = self._gate.step(action)
        if result.executed is not None:
            executed = result.executed
        self._actions.append(executed.astype(np.float32))
        self._controllers.append(int(controller))
        self._scores = result.sub_step_scores
        self._outcome = self._label or result.outcome
        self._see(result.observation)

    def _next_command(self) -> Command:
        if self._command is None or self._command.intent is Intent.HOLD:
            self._command = OBSERVE if self._operator is None else self._operator.poll(self.view)
            if self._command.intent is Intent.HOLD:
                # The policy replans from where the robot was held.
                self._drop_queue()
        return self._command

    def _note_operator(self, operator_id: str) -> None:
        """Note who acts from this step on, unless it is known already."""
        if operator_id and not (self.human_acts and self._operator_ids[-1:] == [operator_id]):
            self._operator_ids.append(operator_id)
            self._operator_steps.append(self.steps)

    def _reject_non_finite(self, action: FloatArray) -> None:
        # Non-finite actions are a fault, never clipped: NaN passes a clip.
        if not np.isfinite(action).all():
            raise ActionRejected(f"episode {self.episode_id}: a non-finite action was refused; the robot holds")

    def _see(self, observation: Observation) -> None:
        self._observation, self._looked = observation, False
        self._states.append(np.array(observation.state, dtype=np.float32))
        for name, frames in self._frames.items():
            buffer = io.BytesIO()
            Image.fromarray(observation.images[name]).save(buffer, format="PNG")
            frames.append(buffer.getvalue())

    def episode(self) -> Episode:
        """Return the finished episode.

        Raises:
            RobotFault: if it is not over.
        """
        if self._outcome is None:
            raise RobotFault(f"episode {self.episode_id} still runs; use truncate() to end it without an outcome")
        return self._record(self._outcome)

    def truncate(self) -> Episode:
        """Return what was recorded so far, with an unknown outcome. A finished episode keeps its outcome.

        Raises:
            RobotFault: if nothing was recorded.
        """
        return self._record(self._outcome or Outcome.TRUNCATED)

    def _record(self, outcome: Outcome) -> Episode:
        if not self._actions:
            raise RobotFault(f"episode {self.episode_id} has no steps to record")
        return Episode(
            info=EpisodeInfo(
                outcome=outcome,
                sub_step_scores=self._scores,
                operator_ids=tuple(self._operator_ids),
                operator_steps=tuple(self._operator_steps),
                **self._identity,  # type: ignore[arg-type]
            ),
            states_TS=np.stack(self._states),
            actions_TA=np.stack(self._actions),
            controllers_T=np.array(self._controllers, dtype=np.uint8),
            images={name: tuple(frames) for name, frames in self._frames.items()},
        )
