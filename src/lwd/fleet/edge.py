"""`lwd robot`: a robot host runs N robots with one policy, batched over the robots that need a chunk.

A round asks the policy once for all robots that wait for a chunk, then lets every robot take up to H steps. A
robot that needs its next chunk earlier waits for the round's end: with simulated robots in one thread waiting
costs nothing, and the policy runs on full batches.
"""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lwd.errors import ConfigError, RobotFault
from lwd.fleet.ahead import ChunkAhead, Seam
from lwd.fleet.host_network import HostNetwork, HostState, HostStatus
from lwd.fleet.liveness import alive
from lwd.fleet.messages import AxisStatus, RobotStatus, axes_of
from lwd.fleet.release import LoadedPolicy
from lwd.fleet.views import scene_of
from lwd.operators.protocol import Operator
from lwd.operators.remote import RemoteOperator
from lwd.robots.protocol import PosedRobot, Robot, driving_of
from lwd.robots.session import EpisodeSession
from lwd.types import Episode, Outcome, Source, Task

TRAINING_SEEDS = 2**30
"""Seeds of the fleet lie in [0, 2^30); evaluation uses the ones above."""
_IDLE_S = 0.02
_DRIVEN_IDLE_S = 0.003
"""The same while a person drives a robot: a step must begin when it is due."""
_STATUS_EVERY_S = 0.25
_COMPLAIN_EVERY_S = 60.0
_REST_S = 1.0
"""How long a robot rests after a fault; longer with every fault in a row."""
_MAX_FAULTS = 5
"""Faults of one robot in a row after which the host gives up, for its supervisor to start it anew."""

_ENDINGS = tuple(outcome for outcome in Outcome if outcome is not Outcome.UNLABELLED)
"""How an episode of a robot can end."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FleetRobot:
    """One robot of a host, with whoever may take it over."""

    robot_id: str
    robot: Robot
    world: str
    operator: Operator | None = None
    start: int = 0
    """How often this robot was started before: a restarted host must not repeat its episodes."""


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """How the robots of a host are used."""

    tasks: tuple[Task, ...]
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """Share of the episodes by task name; empty: the tasks take turns."""
    seed: int = 0
    max_env_steps: int | None = None
    """No new episodes after this many steps of this host; running ones end."""
    max_episodes: int | None = None
    """No new episodes after this many of this host."""
    predict_ahead: int = 0
    """Actions left in a chunk when the next one is predicted, in the background; 0: when none is left. For one robot in
    real time: simulated ones would only compute twice at once."""
    seam: Seam = "guided"
    """How a chunk that was predicted ahead follows the one before."""


@dataclass(kw_only=True)
class _Slot:
    """A robot and its present episode."""

    unit: FleetRobot
    number: int
    random: np.random.Generator
    axes: tuple[AxisStatus, ...]
    begun: int = 0
    faults: int = 0
    rest_until_s: float = 0.0
    next_step_s: float = 0.0
    """When a robot that a person drives makes its next step: they see the world in real time."""
    session: EpisodeSession | None = None
    policy: LoadedPolicy | None = None


class RobotHost:
    """The robots' thread of a host. `run` returns when it was told to stop or a limit is reached."""

    def __init__(self, robots: Sequence[FleetRobot], settings: EdgeSettings, network: HostNetwork) -> None:
        self._settings = settings
        self._network = network
        self._slots = [
            _Slot(
                unit=unit,
                number=number,
                random=_generator(settings.seed, unit),
                axes=axes_of(driving_of(unit.robot)),
            )
            for number, unit in enumerate(robots)
        ]
        self._generator = torch.Generator().manual_seed(settings.seed)
        if settings.predict_ahead and len(robots) != 1:
            raise ConfigError(f"predict_ahead is for hosts of one robot, this one has {len(robots)}: start one each")
        self._ahead = (
            ChunkAhead(settings.predict_ahead, self._generator, seam=settings.seam) if settings.predict_ahead else None
        )
        self._horizon = 1
        self._env_steps = self._human_steps = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._begun = self._finished = 0
        self._acting_s = 0.0
        self._started_s = time.monotonic()
        self._next_status_s = 0.0
        self._shortage = ""
        self._next_complaint_s = 0.0

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Run episodes. On return all running ones were truncated and handed over.

        Raises:
            RobotFault: if one robot fails again and again.
        """
        try:
            while not should_stop() and not self._exhausted():
                alive()
                self._network.check()
                state = self._begin_episodes()
                self._act()
                moved = self._step_round(should_stop)
                self._publish_status(state)
                if not moved:
                    time.sleep(_DRIVEN_IDLE_S if any(map(_is_driven, self._slots)) else _IDLE_S)
        finally:
            if self._ahead is not None:
                self._ahead.close()
            self._truncate_all()
            self._publish_status("stopping", force=True)

    @property
    def env_steps(self) -> int:
        return self._env_steps

    @property
    def finished(self) -> int:
        """Episodes handed over."""
        return self._finished

    def _begin_episodes(self) -> HostState:
        policy = self._network.policies.newest
        if policy is None:
            return "waiting for a policy"
        self._network.policies.in_use = frozenset(slot.policy.version for slot in self._slots if slot.policy)
        for slot in self._slots:
            if slot.session is not None or self._may_not_begin():
                continue
            if self._is_short():
                return "spool full"
            if self._network.learner_is_behind:
                idle = all(other.session is None for other in self._slots)
                return "waiting for the learner" if idle else "running"
            if time.monotonic() >= slot.rest_until_s:
                self._begin(slot, policy)
        return "running"

    def _is_short(self) -> bool:
        """Whether another episode would not fit into the spool; says so now and then, and when it is over."""
        running = sum(slot.session is not None for slot in self._slots)
        before, self._shortage = self._shortage, self._network.shortage(running)
        if self._shortage and time.monotonic() >= self._next_complaint_s:
            _logger.error("no new episodes: %s", self._shortage)
            self._next_complaint_s = time.monotonic() + _COMPLAIN_EVERY_S
        if before and not self._shortage:
            _logger.info("the spool has room again: episodes begin")
            self._next_complaint_s = 0.0
        return bool(self._shortage)

    def _begin(self, slot: _Slot, policy: LoadedPolicy) -> None:
        task = self._next_task(slot)
        slot.begun += 1
        self._begun += 1
        try:
            slot.session = EpisodeSession(
                slot.unit.robot,
                task,
                str(slot.random.choice(task.instructions)),
                seed=int(slot.random.integers(TRAINING_SEEDS)),
                robot_id=slot.unit.robot_id,
                source=Source.FLEET,
                policy_version=policy.version,
                world=slot.unit.world,
                operator=slot.unit.operator,
                # In the order in which the robot recorded them, also across its restarts; unique by the last part,
                # for a robot that goes on with another machine's empty spool.
                episode_id=f"{slot.unit.start:06d}-{slot.begun:06d}-{uuid.uuid4().hex[:16]}",
            )
            slot.policy = policy
            self._network.console.note_fault(slot.unit.robot_id, "")
        except RobotFault as error:
            self._fault(slot, error)

    def _next_task(self, slot: _Slot) -> Task:
        tasks, weights = self._settings.tasks, self._settings.task_weights
        if not weights:
            # Robots of a host begin at different tasks, so that all tasks are seen from the start.
            return tasks[(slot.number + slot.begun) % len(tasks)]
        shares = np.array([weights.get(task.name, 0.0) for task in tasks])
        return tasks[int(slot.random.choice(len(tasks), p=shares / shares.sum()))]

    def _act(self) -> None:
        """Ask each policy version once for all the robots that wait for a chunk of it."""
        waiting: dict[int, tuple[LoadedPolicy, list[tuple[_Slot, EpisodeSession]]]] = {}
        for slot in self._slots:
            if slot.session is None or slot.policy is None or not _is_due(slot):
                continue
            if slot.session.needs_chunk:
                if self._filled_ahead(slot, slot.session):
                    continue
                _, group = waiting.setdefault(slot.policy.version, (slot.policy, []))
                group.append((slot, slot.session))
        started_s = time.monotonic()
        for loaded, group in waiting.values():
            observations = [session.observation for _, session in group]
            instructions = [session.instruction for _, session in group]
            chunks_BHA = loaded.policy.act(observations, instructions, generator=self._generator)
            self._horizon = chunks_BHA.shape[1]
            for (slot, session), chunk_HA in zip(group, chunks_BHA, strict=True):
                try:
                    session.load_chunk(chunk_HA)
                except RobotFault as error:
                    self._fault(slot, error)
        self._acting_s += time.monotonic() - started_s

    def _filled_ahead(self, slot: _Slot, session: EpisodeSession) -> bool:
        """Whether a prediction in the background gave the chunk; or the robot has failed with it."""
        if self._ahead is None:
            return False
        try:
            return self._ahead.fill(session)
        except RobotFault as error:
            self._fault(slot, error)
            return True

    def _step_round(self, should_stop: Callable[[], bool]) -> bool:
        """Let every robot take up to H steps. Returns whether any did."""
        moved = False
        for _ in range(self._horizon):
            if should_stop() or not self._step_all():
                break
            moved = True
        return moved

    def _step_all(self) -> bool:
        moved = False
        for slot in self._slots:
            session = slot.session
            if session is None:
                continue
            self._show(slot, session)
            if not _is_due(slot) or session.needs_chunk:
                continue
            if session.held:
                self._look(slot, session)
                continue
            moved = True
            before = session.steps
            try:
                if self._ahead is not None and slot.policy is not None:
                    self._ahead.update(session, slot.policy)
                session.step()
            except RobotFault as error:
                self._fault(slot, error)
                continue
            if session.steps > before:
                self._env_steps += 1
                self._human_steps += session.human_acts
                now_s, period_s = time.monotonic(), 1 / slot.unit.robot.embodiment.control_hz
                # In step with the clock: no two at once after a pause, and no wait after running ahead.
                on_time_s = slot.next_step_s + period_s
                slot.next_step_s = on_time_s if now_s < on_time_s <= now_s + period_s else now_s + period_s
            if session.discarded:
                _logger.info("robot %s: episode %s is discarded", slot.unit.robot_id, session.episode_id)
                slot.session = slot.policy = None
            elif session.done:
                slot.faults = 0
                self._show(slot, session)
                self._hand_over(slot, session.episode())
        return moved

    def _look(self, slot: _Slot, session: EpisodeSession) -> None:
        try:
            session.look()
        except RobotFault as error:
            self._fault(slot, error)

    def _show(self, slot: _Slot, session: EpisodeSession) -> None:
        robot, console = slot.unit.robot, self._network.console
        if console.is_due(slot.unit.robot_id):
            if isinstance(robot, PosedRobot):
                console.show(slot.unit.robot_id, session.steps, robot.body_poses())
            elif session.observation.images:
                console.show_pictures(slot.unit.robot_id, session.steps, session.observation.images)
        if console.is_view_due(slot.unit.robot_id):
            console.show_view(scene_of(session, robot.embodiment))

    def _fault(self, slot: _Slot, error: RobotFault) -> None:
        """A robot holds: what it recorded is truncated, and it rests before its next episode."""
        slot.faults += 1
        _logger.error("robot %s: %s", slot.unit.robot_id, error)
        if slot.session is not None and slot.session.steps > 0:
            self._hand_over(slot, slot.session.truncate())
        slot.session = slot.policy = None
        if slot.faults >= _MAX_FAULTS:
            raise RobotFault(f"robot {slot.unit.robot_id} failed {slot.faults} times in a row: {error}") from error
        slot.rest_until_s = time.monotonic() + _REST_S * slot.faults
        self._network.console.note_fault(slot.unit.robot_id, str(error))

    def _hand_over(self, slot: _Slot, episode: Episode) -> None:
        self._outcomes[episode.info.outcome] += 1
        self._finished += 1
        slot.session = slot.policy = None
        self._network.submit(episode)

    def _truncate_all(self) -> None:
        for slot in self._slots:
            if slot.session is not None and slot.session.steps > 0:
                self._hand_over(slot, slot.session.truncate())
            slot.session = slot.policy = None

    def _may_not_begin(self) -> bool:
        settings = self._settings
        return (settings.max_env_steps is not None and self._env_steps >= settings.max_env_steps) or (
            settings.max_episodes is not None and self._begun >= settings.max_episodes
        )

    def _exhausted(self) -> bool:
        return self._may_not_begin() and all(slot.session is None for slot in self._slots)

    def _publish_status(self, state: HostState, *, force: bool = False) -> None:
        now_s = time.monotonic()
        sessions = [(slot, slot.session) for slot in self._slots if slot.session is not None]
        if not force and now_s < self._next_status_s:
            return
        self._next_status_s = now_s + _STATUS_EVERY_S
        elapsed_s = max(now_s - self._started_s, 1e-9)
        self._network.status = HostStatus(
            state=state,
            env_steps=self._env_steps,
            episodes=self._finished,
            running_steps=sum(session.steps for _, session in sessions),
            shortage=self._shortage,
            robots=tuple(_robot_status(slot, session) for slot, session in sessions),
            metrics={
                "edge/env_steps_per_s": self._env_steps / elapsed_s,
                "edge/inference_share": self._acting_s / elapsed_s,
                "edge/human_share": self._human_steps / max(self._env_steps, 1),
                **{f"edge/outcome_{name.value}": float(self._outcomes[name]) for name in _ENDINGS},
            },
        )


def _robot_status(slot: _Slot, session: EpisodeSession) -> RobotStatus:
    return RobotStatus(
        robot_id=slot.unit.robot_id,
        task=session.task.name,
        instruction=session.instruction,
        episode_id=session.episode_id,
        step=session.steps,
        policy_version=slot.policy.version if slot.policy else -1,
        human=session.human_acts,
        sub_step_scores=session.sub_step_scores,
        time_limit=session.task.time_limit,
        control_hz=slot.unit.robot.embodiment.control_hz,
        embodiment=slot.unit.robot.embodiment.name,
        axes=slot.axes,
    )


def _is_driven(slot: _Slot) -> bool:
    return isinstance(slot.unit.operator, RemoteOperator) and slot.unit.operator.drives


def _is_due(slot: _Slot) -> bool:
    """Whether the robot may step now: always, but in real time while a person drives it."""
    return not _is_driven(slot) or time.monotonic() >= slot.next_step_s


def _generator(seed: int, unit: FleetRobot) -> np.random.Generator:
    return np.random.default_rng([seed, unit.start, *unit.robot_id.encode()])
