"""`lwd robot`: a robot host runs N robots with one policy, batched over the robots that need a chunk.

A round asks the policy once for all robots that wait for a chunk, then lets every robot take up to H steps. A
robot that needs its next chunk earlier waits for the round's end: with simulated robots in one thread waiting
costs nothing, and the policy runs on full batches.
"""

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from lwd.errors import OperatorFault, PolicyFault, ResetInterrupted, RobotFault, RobotStopped
from lwd.fleet.ahead import ChunkAhead
from lwd.fleet.edge_settings import EdgeSettings, FleetRobot
from lwd.fleet.host_network import HostNetwork, HostState, HostStatus
from lwd.fleet.liveness import alive
from lwd.fleet.messages import axes_of
from lwd.fleet.policy_faults import load_chunks
from lwd.fleet.release import LoadedPolicy
from lwd.fleet.slot import TRAINING_SEEDS, Slot, random_of
from lwd.fleet.watchdog import Watchdog
from lwd.robots.holding import Holder
from lwd.robots.plan_age import InferenceTimes
from lwd.robots.protocol import HomingRobot, driving_of
from lwd.robots.session import EpisodeSession
from lwd.types import Episode, Outcome

__all__ = ["TRAINING_SEEDS", "EdgeSettings", "FleetRobot", "RobotHost"]

_IDLE_S = 0.02
_DRIVEN_IDLE_S = 0.003
"""The same while a person drives a robot: a step must begin when it is due."""
_STATUS_EVERY_S = 0.25
_COMPLAIN_EVERY_S = 60.0
_ROLLS_S = 0.05
"""Where a policy usually takes longer, wheels are held while it is asked: they would go on with their last velocity."""
_REST_S = 1.0
"""How long a robot rests after a fault; longer with every fault in a row."""
_MAX_REST_S = 30.0
_MAX_FAULTS = 5
"""Faults in a row of each robot of a simulating host after which it gives up, for its supervisor to start it anew."""

_ENDINGS = tuple(outcome for outcome in Outcome if outcome is not Outcome.UNLABELLED)
"""How an episode of a robot can end."""

_logger = logging.getLogger(__name__)


class RobotHost:
    """The robots' thread of a host. `run` returns when it was told to stop or a limit is reached."""

    def __init__(self, robots: Sequence[FleetRobot], settings: EdgeSettings, network: HostNetwork) -> None:
        self._settings = settings
        self._network = network
        settings.require_fit(tuple(robots))
        self._watchdog = Watchdog(
            {unit.robot_id: unit.robot for unit in robots},
            network.latch,
            on_alarm=network.note_alarm,
            on_hold=network.stops.ring,
        )
        network.stops.holds = self._watchdog.holds
        self._slots = [
            Slot(
                unit=unit,
                number=number,
                random=random_of(settings.seed, unit),
                axes=axes_of(driving_of(unit.robot)),
                holder=Holder(self._watchdog.gates[unit.robot_id], unit.robot_id),
            )
            for number, unit in enumerate(robots)
        ]
        for slot in self._slots:
            if isinstance(slot.unit.robot, HomingRobot):
                slot.unit.robot.interrupted = functools.partial(self._is_interrupted, slot)
            if slot.remote is not None:
                slot.remote.over()
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._inference = InferenceTimes()
        self._ahead = (
            ChunkAhead(settings.predict_ahead, self._generator, self._inference, seam=settings.seam)
            if settings.predict_ahead
            else None
        )
        self._horizon = 1
        self._env_steps = self._human_steps = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._begun = self._finished = 0
        self._acting_s = 0.0
        self._started_s = time.monotonic()
        self._should_stop: Callable[[], bool] = lambda: False
        self._next_status_s = 0.0
        self._shortage = ""
        self._next_complaint_s = 0.0

    def run(self, should_stop: Callable[[], bool], at_once: Callable[[], bool] = lambda: False) -> None:
        """Run episodes. On return all running ones were truncated and handed over, and the robots are parked.

        Args:
            at_once: whether a robot that is being parked must hold where it is.
        Raises:
            ConfigError: if a robot refuses its configuration when it begins its first episode.
            RobotFault: if every robot, all of them simulated, fails again and again.
        """
        self._should_stop = should_stop
        self._watchdog.start()
        try:
            while not should_stop() and not self._exhausted():
                alive()
                self._watchdog.turn("the host")
                self._network.check()
                self._heed()
                state = self._begin_episodes()
                self._act()
                moved = self._step_round(should_stop)
                self._publish_status(state)
                if not moved:
                    time.sleep(_DRIVEN_IDLE_S if any(slot.is_driven for slot in self._slots) else _IDLE_S)
        finally:
            for slot in self._slots:
                slot.holder.hold()
            if self._ahead is not None:
                self._ahead.close()
            self._truncate_all()
            self._publish_status("stopping", force=True)
            for slot in self._slots:
                self._watchdog.turn("robot.reset", slot.unit.robot_id)
                slot.park(lambda: self._network.latch.is_set or at_once())
            self._watchdog.close()

    @property
    def env_steps(self) -> int:
        return self._env_steps

    @property
    def finished(self) -> int:
        """Episodes handed over."""
        return self._finished

    def _is_interrupted(self, slot: Slot) -> bool:
        """Whether a robot on the way to its start must hold."""
        return self._should_stop() or not slot.may_begin

    def _heed(self) -> None:
        """End the episodes of robots that somebody stopped, and plan anew where the loop stood still."""
        if self._network.latch.is_set:
            # What was recorded is kept, and bootstraps: a stop is neither a failure nor the task's end.
            self._truncate_all()
        if late := self._watchdog.take_late():
            _logger.warning("%s: what was planned before is dropped", late)
            for slot in self._slots:
                self._watchdog.gates[slot.unit.robot_id].hold()
                if slot.session is not None:
                    slot.session.replan()
                    self._look(slot, slot.session)

    def _begin_episodes(self) -> HostState:
        for slot in self._slots:
            if slot.session is None:
                slot.holder.hold()
        policy = self._network.policies.newest
        if policy is None:
            return "waiting for a policy"
        self._network.policies.in_use = frozenset(slot.policy.version for slot in self._slots if slot.policy)
        for slot in self._slots:
            if slot.session is not None:
                continue
            if self._may_not_begin() or not slot.may_begin:
                continue
            if self._network.latch.is_set or not self._network.stops.is_known:
                break
            if self._is_short():
                return "spool full"
            if self._network.learner_is_behind(real=slot.unit.is_real):
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

    def _begin(self, slot: Slot, policy: LoadedPolicy) -> None:
        robot_id = slot.unit.robot_id
        self._watchdog.turn("robot.reset", robot_id)
        try:
            slot.begin(self._settings, policy, self._watchdog.gates[robot_id])
            self._begun += 1
            self._network.console.note_fault(robot_id, "")
        except (RobotStopped, ResetInterrupted) as error:
            _logger.warning("robot %s begins no episode: %s", robot_id, error)
        except RobotFault as error:
            self._fault(slot, error)
        self._watchdog.turn("the host")

    def _act(self) -> None:
        """Ask each policy version once for all the robots that wait for a chunk of it."""
        waiting: dict[int, tuple[LoadedPolicy, list[tuple[Slot, EpisodeSession]]]] = {}
        for slot in self._slots:
            if slot.session is None or slot.policy is None or not slot.is_due:
                continue
            if self._wants_chunk(slot, slot.session):
                if self._filled_ahead(slot, slot.session):
                    continue
                _, group = waiting.setdefault(slot.policy.version, (slot.policy, []))
                group.append((slot, slot.session))
        started_s = time.monotonic()
        for loaded, group in waiting.values():
            self._watchdog.turn("policy.act")
            sessions = [session for _, session in group]
            faults = load_chunks(self._network.policies, loaded, sessions, self._generator, self._inference)
            self._watchdog.turn("the host")
            for (slot, session), fault in zip(group, faults, strict=True):
                if fault is None:
                    # None is queued of a chunk that came too late.
                    self._horizon = max(session.queued, 1)
                else:
                    self._fault(slot, fault)
        self._acting_s += time.monotonic() - started_s

    def _wants_chunk(self, slot: Slot, session: EpisodeSession) -> bool:
        """Whether the policy is to be asked for this robot; it is observed anew if it stood, and held if it rolls."""
        try:
            with slot.its_fault():
                if not session.needs_chunk:
                    return False
                session.look_again()
        except RobotFault as error:
            self._fault(slot, error)
            return False
        if slot.rolls and self._inference.usual_s > _ROLLS_S:
            slot.holder.hold()
        return True

    def _filled_ahead(self, slot: Slot, session: EpisodeSession) -> bool:
        """Whether a prediction in the background gave the chunk; or the robot has failed with it."""
        if self._ahead is None:
            return False
        self._watchdog.turn("policy.act")
        try:
            with slot.its_fault():
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
            if (session := slot.session) is None:
                continue
            episode = None
            try:
                with slot.its_fault():
                    moved |= self._step(slot, session)
                    episode = session.episode() if session.done else None
            except RobotStopped:
                # Somebody stopped it, or the loop stood still: `_heed` sees to all robots.
                return False
            except RobotFault as error:
                self._fault(slot, error)
                moved = True
            if episode is not None:
                slot.faults = 0
                self._hand_over(slot, episode)
            elif session.discarded:
                _logger.info("robot %s: episode %s is discarded", slot.unit.robot_id, session.episode_id)
                slot.end()
        return moved

    def _step(self, slot: Slot, session: EpisodeSession) -> bool:
        """Let one robot take a step if it is due. Returns whether it did."""
        slot.show(session, self._network.console)
        if not slot.is_due or session.needs_chunk:
            return False
        if session.held:
            self._look(slot, session)
            return False
        before = session.steps
        self._watchdog.turn("robot.step", slot.unit.robot_id)
        if self._ahead is not None and slot.policy is not None:
            self._ahead.update(session, slot.policy)
        session.step()
        if session.steps > before:
            self._env_steps += 1
            self._human_steps += session.human_acts
            now_s, period_s = time.monotonic(), 1 / slot.unit.robot.embodiment.control_hz
            # In step with the clock: no two at once after a pause, and no wait after running ahead.
            on_time_s = slot.next_step_s + period_s
            slot.next_step_s = on_time_s if now_s < on_time_s <= now_s + period_s else now_s + period_s
        if session.done:
            slot.show(session, self._network.console)
        return True

    def _look(self, slot: Slot, session: EpisodeSession) -> None:
        self._watchdog.turn("robot.observe", slot.unit.robot_id)
        try:
            with slot.its_fault():
                session.look()
        except RobotFault as error:
            self._fault(slot, error)

    def _fault(self, slot: Slot, error: RobotFault) -> None:
        """A robot holds: what it recorded is truncated, and it rests before its next episode. The others go on.

        Of a real one that failed itself nobody knows how it stands, and going to its start may hurt: it waits for a
        person. One whose device for taking it over failed stands well; the device is connected anew.
        """
        robot_id, of_policy = slot.unit.robot_id, isinstance(error, PolicyFault)
        its_own = not isinstance(error, (PolicyFault, OperatorFault))
        slot.unwell |= its_own
        slot.faults += not of_policy  # where the policy failed another version helps
        if slot.policy is not None and not isinstance(error, OperatorFault):
            self._network.policies.failed(slot.policy.version, error)
        _logger.error("robot %s: %s", robot_id, error)
        # Before its operator is told that the episode is over: a fault is no reason to hand the robot back.
        self._network.console.note_fault(robot_id, str(error))
        self._truncate(slot)
        if not of_policy:
            slot.failed()
        if slot.may_wait and its_own:
            slot.wait_for_person()
        elif not any(other.unit.is_real or other.faults < _MAX_FAULTS for other in self._slots):
            raise RobotFault(f"robot {robot_id} failed {slot.faults} times in a row: {error}") from error
        slot.rest_until_s = time.monotonic() + min(_REST_S * max(slot.faults, 1), _MAX_REST_S)

    def _hand_over(self, slot: Slot, episode: Episode) -> None:
        self._outcomes[episode.info.outcome] += 1
        if episode.info.outcome.terminal:
            self._network.policies.completed(episode.info.policy_version)
        self._finished += 1
        slot.end()
        self._network.submit(episode)

    def _truncate(self, slot: Slot) -> None:
        if (episode := slot.truncated()) is not None:
            self._hand_over(slot, episode)
        else:
            slot.end()

    def _truncate_all(self) -> None:
        for slot in self._slots:
            if slot.session is not None:
                self._truncate(slot)

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
            robots=tuple(slot.status(session) for slot, session in sessions),
            metrics={
                "edge/env_steps_per_s": self._env_steps / elapsed_s,
                "edge/inference_share": self._acting_s / elapsed_s,
                "edge/human_share": self._human_steps / max(self._env_steps, 1),
                "edge/old_plans": float(sum(slot.old_plans for slot in self._slots)),
                **{f"edge/outcome_{name.value}": float(self._outcomes[name]) for name in _ENDINGS},
            },
        )
