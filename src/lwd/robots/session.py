"""One episode of one robot: who acts at each step, and what gets recorded."""

import contextlib
import importlib.metadata
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

from lwd.errors import ConfigError, RobotFault
from lwd.robots.gate import Gate
from lwd.robots.holding import Holder
from lwd.robots.lazy_mapping import LazyMapping
from lwd.robots.limits import checked_action
from lwd.robots.plan import Plan
from lwd.robots.plan_age import FIRST_INFERENCE_S
from lwd.robots.protocol import ObservingRobot, Robot, driving_of
from lwd.robots.recording import Recording
from lwd.types import (
    OBSERVE,
    Command,
    Controller,
    Episode,
    FloatArray,
    Intent,
    Observation,
    Outcome,
    RobotView,
    Source,
    Task,
)

SOFTWARE_VERSION = importlib.metadata.version("lwd")
_OF_THE_MOMENT = frozenset({Intent.OBSERVE, Intent.HOLD, Intent.TAKE_OVER})
"""What may be asked again; a label is given once."""


class SessionOperator(Protocol):
    """What a session needs of an operator (structurally an `lwd.operators.protocol.Operator`)."""

    def begin(self, view: RobotView, seed: int) -> None: ...

    def poll(self, view: RobotView) -> Command: ...


class EpisodeSession:
    """Runs one episode step by step; resets the robot when constructed.

    At each step the operator is asked first. While it takes over, its actions are executed and recorded as
    `Controller.HUMAN`, and the policy's queued chunk is dropped, so that the policy replans from where the
    human left off. While it holds the robot there are no steps. An operator's label ends the episode; before the
    first step it is kept until one step has been held, because an episode has at least one step; of a robot that
    nobody knows how to hold with an action, nothing is kept then.

    Whoever acts, only finite actions of the robot's shape within its limits reach it (`lwd.robots.limits`). The robot
    is held (`Robot.hold`) while its operator holds it, when the episode ends, and at every fault. A plan that has
    become too old for a real robot is dropped, and the robot held (`lwd.robots.plan_age`).

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            gate: what the robot is moved by, where another thread may stop it.
            clock: monotonic seconds, by which plans are too old.
        """
        if policy_version < -1:
            raise ConfigError(f"policy_version is {policy_version}; use -1 where no policy acts")
        self._robot, self._task, self._operator = robot, task, operator
        self._gate = gate or Gate(robot)
        self._embodiment = robot.embodiment
        self._holder = Holder(self._gate, robot_id, clock=clock)
        self._clock = clock
        self._identity: dict[str, object] = {
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
        self._plan = Plan(self._embodiment, ages=isinstance(robot, ObservingRobot))
        self._command: Command | None = None
        self._outcome: Outcome | None = None
        self._label: Outcome | None = None
        self._scores = (0.0,) * len(task.sub_steps)
        self._discarded = False
        self._looked = False
        self._observed_s = self._polled_s = self._next_look_s = 0.0
        self._recording = Recording(self._embodiment, self._identity)
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
    def observed_s(self) -> float:
        """When it was observed, on the session's clock."""
        return self._observed_s

    @property
    def steps(self) -> int:
        return self._recording.steps

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
        return len(self._plan)

    @property
    def queue_OA(self) -> FloatArray:
        """Policy actions (O, A) that wait to be executed."""
        return self._plan.queue_OA

    @property
    def plans(self) -> int:
        """How often the queued actions were replaced or dropped: tells whether a prediction is still wanted."""
        return self._plan.replaced

    @property
    def old_plans(self) -> int:
        """How many plans were too old to begin, or to go on."""
        return self._plan.too_old

    @property
    def human_acts(self) -> bool:
        """Whether the last step was the operator's."""
        return self._recording.human_acts

    @property
    def view(self) -> RobotView:
        return RobotView(
            robot_id=str(self._identity["robot_id"]),
            task=self._task,
            step=self.steps,
            observation=self._observation,
            sub_step_scores=self._scores,
            privileged=LazyMapping(self._robot.privileged),
            executed=self._recording.last_action,
        )

    @property
    def needs_chunk(self) -> bool:
        """Whether the next step needs a policy action and none is queued; asks the operator once per step."""
        return not self.done and self._next_command().intent is Intent.OBSERVE and not self._plan

    @property
    def held(self) -> bool:
        """Whether the operator holds the robot; then it is asked again each time, and `step` must wait."""
        return not self.done and self._next_command().intent is Intent.HOLD

    def load_chunk(
        self, chunk_HA: FloatArray, *, observed_s: float | None = None, inference_s: float = FIRST_INFERENCE_S
    ) -> bool:
        """Queue a policy's actions instead of what was queued. Returns False if they are too old: then none is.

        Args:
            observed_s: `observed_s` of what the policy saw; None: what is observed now.
            inference_s: the policy's usual time.
        Raises:
            ActionRejected: if the chunk is not (H, A) with H >= 1, or an action is not finite.
        """
        with self._holding():
            loaded = self._plan.load(chunk_HA, **self._times(observed_s, inference_s))
        if not loaded:
            self._holder.hold()
        return loaded

    def join_chunk(
        self,
        chunk_HA: FloatArray,
        *,
        executed: int,
        observed_s: float | None = None,
        inference_s: float = FIRST_INFERENCE_S,
    ) -> bool:
        """Let what is queued fade into a chunk that was predicted `executed` steps ago.

        Its first `executed` actions are over. Returns False if the chunk is too old: what was queued stays.

        Args:
            observed_s: as for `load_chunk`.
            inference_s: as for `load_chunk`.
        Raises:
            ShapeError: if all of the chunk is over.
            ActionRejected: as `load_chunk`.
        """
        with self._holding():
            return self._plan.join(chunk_HA, executed=executed, **self._times(observed_s, inference_s))

    def _times(self, observed_s: float | None, inference_s: float) -> dict[str, float]:
        observed_s = self._observed_s if observed_s is None else observed_s
        return {"observed_s": observed_s, "inference_s": inference_s, "now_s": self._clock()}

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        """Hold a robot at a fault: also one that has failed may still execute what it was sent last."""
        try:
            yield
        except BaseException:
            self._holder.hold()
            raise

    def step(self) -> None:
        """Execute one control step, the operator's or the policy's; none while the robot is held, or its plan too old.

        Raises:
            RobotFault: if the episode is over, or a policy action is needed and none was loaded.
            ActionRejected: if the action is not finite or has the wrong shape; nothing is executed.
        """
        if self.done:
            raise RobotFault(f"episode {self.episode_id} is over ({self._outcome}); start a new session")
        if self.held:
            return
        command, self._command = self._next_command(), None
        with self._holding():
            self._obey(command)
        if self.done or self._discarded:
            self._holder.hold()

    def _obey(self, command: Command) -> None:
        if command.intent is Intent.DISCARD:
            self._plan.drop()
            self._discarded = True
        elif command.intent is Intent.LABEL:
            if command.outcome is None:
                raise ConfigError("a LABEL command needs an outcome")
            self._plan.drop()
            self._label = command.outcome
            if self.steps:
                self._outcome = command.outcome
            else:
                self._hold_one_step()
        elif command.intent is Intent.TAKE_OVER:
            self._plan.drop()
            self._execute(command.action, Controller.HUMAN, command.operator_id)
        elif not self._plan:
            if self._label is None:
                raise RobotFault(f"episode {self.episode_id} has no action to execute; call load_chunk() first")
            self._hold_one_step()
        elif (action := self._plan.next(self._clock())) is None:
            self._holder.hold()
        else:
            self._execute(action, Controller.POLICY)

    def _hold_one_step(self) -> None:
        """A label needs a step: one that stands still. Where no such action is known, nothing is kept."""
        still = driving_of(self._robot).still(self._observation.state, None)
        if still is None:
            self._discarded = True
        else:
            self._execute(still, Controller.HUMAN)

    def look(self) -> None:
        """Observe a robot that is held, at its control rate at most: whoever acts next begins from what it is then.

        What the last action led to stays recorded as it was seen: behind it the episode has a gap.

        Raises:
            RobotFault: if the robot does not answer.
        """
        if self._clock() >= self._next_look_s and isinstance(self._robot, ObservingRobot):
            self._next_look_s = self._clock() + 1 / self._embodiment.control_hz
            self._observation, self._looked = self._robot.observe(), True
            self._observed_s = self._clock()

    def look_again(self) -> None:
        """Look, if what was observed last is too old to plan or act from.

        Raises:
            RobotFault: if the robot does not answer.
        """
        if self._plan.is_late(self._observed_s, self._clock()):
            self.look()

    def replan(self) -> None:
        """Drop what was planned and asked for before: the loop stood still."""
        if self._command is not None and self._command.intent in _OF_THE_MOMENT:
            self._command = None
        self._plan.drop()

    def _execute(self, action: FloatArray | None, controller: Controller, operator_id: str = "") -> None:
        checked_A = checked_action(action, self._embodiment)
        # A person who acts after a stall acts on what is there now, whatever was seen last.
        self.look_again()
        self._holder.moves()
        begun_s = self._clock()
        result = self._gate.step(checked_A)
        self._plan.stepped(begun_s)
        if self._looked:
            self._recording.begin_again(self._observation)
        self._recording.note_operator(operator_id)
        self._recording.act(checked_A if result.executed is None else result.executed, controller)
        self._scores = result.sub_step_scores
        self._outcome = self._label or result.outcome
        self._see(result.observation)

    def _next_command(self) -> Command:
        if self._command is None or self._command.intent is Intent.HOLD or self._is_late():
            self._polled_s = self._clock()
            self._command = OBSERVE if self._operator is None else self._operator.poll(self.view)
            if self._command.intent is Intent.HOLD:
                # The policy replans from where the robot was held.
                self._plan.drop()
                self._holder.hold()
        return self._command

    def _is_late(self) -> bool:
        """Whether the operator was asked so long ago that a real robot would do what was meant for another moment."""
        is_late = self._plan.is_late(self._polled_s, self._clock())
        return is_late and self._command is not None and self._command.intent in _OF_THE_MOMENT

    def _see(self, observation: Observation) -> None:
        self._observation, self._looked, self._observed_s = observation, False, self._clock()
        self._recording.see(observation)

    def episode(self) -> Episode:
        """Return the finished episode.

        Raises:
            RobotFault: if it is not over.
        """
        if self._outcome is None:
            raise RobotFault(f"episode {self.episode_id} still runs; use truncate() to end it without an outcome")
        return self._recording.episode(self._outcome, self._scores)

    def truncate(self) -> Episode:
        """Return what was recorded so far, with an unknown outcome. A finished episode keeps its outcome.

        Raises:
            RobotFault: if nothing was recorded.
        """
        return self._recording.episode(self._outcome or Outcome.TRUNCATED, self._scores)
