"""Who controls one robot: the lease, the phases and the dead-man's switch, on the robot's own monotonic clock.

    AUTONOMOUS --take--> PAUSED --resume--> HUMAN --release--> AUTONOMOUS
                           ^                  |
                           +--- dead-man, pause, episode's end, label

A robot begins an episode by moving to its start. Under a lease, and after its operator is gone or it had a fault, it
does so only when somebody says so: `resume` lets the next episode begin (a second one lets the operator drive),
`release` gives the robot back.

Exactly one operator holds the lease of a robot. A new lease has a higher number, and a command under any other number
is refused, so a command that was delayed in the network cannot move a robot that somebody else took since.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lwd.driving import Driving
from lwd.errors import ConfigError, ControlRefused
from lwd.operators.protocol import HOLD, Command, Intent
from lwd.types import FloatArray, Outcome, RobotView

DEAD_MAN_S = 0.2
"""Without a command for so long, a driven robot holds."""
FIRST_COMMAND_S = 2.0
"""The same after `resume`: until the first command the robot holds anyway."""
ABANDONED_S = 10.0
"""Without a sign of life for so long, an operator loses the lease; the robot goes on holding."""
UNDO_S = 3.0
"""For so long a label can be taken back."""


class Phase(StrEnum):
    AUTONOMOUS = "autonomous"
    PAUSED = "paused"
    HUMAN = "human"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One operator's exclusive right to control one robot."""

    number: int
    operator_id: str
    client_id: str
    """Which browser tab or device: one person's second tab is a second client."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """How the operator says that the episode ended. None: nothing of it is kept."""

    outcome: Outcome | None


class Takeover:
    """The state of control of one robot. Not thread-safe: `RemoteOperator` holds the lock."""

    def __init__(self, driving: Driving, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            driving: what deflections do to the robot's action.
            clock: monotonic seconds of this machine; no other machine's clock counts.
        """
        if driving.action_size < 1:
            raise ConfigError("the action has no number; a robot that can be driven has at least one")
        self._driving = driving
        self._clock = clock
        self._numbers = 0
        self._sequence = -1
        self._action: FloatArray | None = None
        """The newest command: an action, or deflections."""
        self._deflects = False
        """Whether it is deflections."""
        self._target: FloatArray | None = None
        """What deflections have moved the action to; None: they begin where the robot stands."""
        self._commanded_s = self._alive_s = -np.inf
        self._label: Label | None = None
        self._labelled_s = 0.0
        self._is_over = self._begins = False
        """Whether no episode runs, and whether the operator has said that the next one may begin."""
        self.phase = Phase.AUTONOMOUS
        self.lease: Lease | None = None
        self.reason = ""
        """Why the robot is paused."""

    @property
    def label(self) -> Label | None:
        """The label that ends the episode once it can no longer be taken back."""
        return self._label

    @property
    def may_begin(self) -> bool:
        """Whether the robot may go to the start of its next episode now."""
        return self.phase is Phase.AUTONOMOUS or self._begins

    @property
    def waits(self) -> bool:
        """Whether no episode runs, and the next one waits for somebody to say so."""
        return self._is_over and not self.may_begin

    def take(self, operator_id: str, client_id: str) -> Lease:
        """Give the lease to an operator; the robot holds at once.

        Raises:
            ControlRefused: if another client holds it; names who.
        """
        self.expire()
        if self.lease is not None:
            if self.lease.client_id == client_id:
                return self.lease
            raise ControlRefused(f"{self.lease.operator_id} controls this robot: ask them to release it")
        self._numbers += 1
        self.lease = Lease(number=self._numbers, operator_id=operator_id, client_id=client_id)
        self._sequence = -1
        self._alive_s = self._clock()
        self._pause("taken over")
        return self.lease

    def resume(self, number: int) -> None:
        """Let the operator drive: the explicit step after a take-over and after every hold.

        Between two episodes it lets the next one begin, which the robot does holding.
        """
        self._require(number)
        if self._label is not None:
            raise ControlRefused("the episode is labelled: undo the label, or wait until it has ended")
        if self._is_over:
            self._begins, self.reason = True, "it moves to its next start"
        elif self.phase is not Phase.HUMAN:
            self._action = self._target = None
            self._commanded_s = self._clock()
            self.phase, self.reason = Phase.HUMAN, ""

    def drive(self, number: int, sequence: int, action: FloatArray) -> None:
        """Set the action for the next steps. One that is older than another, or comes while paused, is dropped.

        Raises:
            ControlRefused: if the lease is another, or the action is not finite or of the wrong size; then it holds.
        """
        self._accept(number, sequence, action, deflects=False)

    def jog(self, number: int, sequence: int, deflection: FloatArray) -> None:
        """Set how far each axis of the robot is deflected for the next steps; `drive` says when it is dropped.

        Raises:
            ControlRefused: as `drive`, and if a deflection is beyond [-1, 1].
        """
        self._accept(number, sequence, deflection, deflects=True)

    def keep(self, number: int) -> None:
        """A sign of life of an operator who does not drive."""
        self._require(number)

    def pause(self, number: int) -> None:
        """Hold the robot until `resume`."""
        self._require(number)
        self._pause("paused by the operator")

    def release(self, number: int) -> None:
        """Give the robot back to its policy, which plans anew from where it stands."""
        self._require(number)
        if self._label is not None:
            raise ControlRefused("the episode is labelled: undo the label, or wait until it has ended")
        self._pause("")
        self.lease, self.phase = None, Phase.AUTONOMOUS

    def abandon(self, client_id: str) -> None:
        """The client is gone: its robot holds, and anybody may take it."""
        if self.lease is not None and self.lease.client_id == client_id:
            self.lease = None
            self._pause("its operator is gone: take over and release")

    def end(self, number: int, label: Label) -> None:
        """Hold, and end the episode with a label after `UNDO_S`."""
        self._require(number)
        self._label, self._labelled_s = label, self._clock()
        self._pause("labelled")

    def undo(self, number: int) -> None:
        """Take the label back; the robot still holds."""
        self._require(number)
        if self._label is None:
            raise ControlRefused("there is no label to take back; after 3 s it is final")
        self._label = None
        self._pause("label taken back")

    def begin(self) -> None:
        """A new episode begins; under a lease the robot holds first."""
        self._is_over = False
        # Nobody had been given it yet.
        missed, self._label = self._label is not None, None
        if self.phase is not Phase.AUTONOMOUS:
            self._pause("the episode was over before its label: a new one begins" if missed else "a new episode begins")

    def over(self) -> None:
        """The episode has ended, or none has begun yet; under a lease the next one waits for the operator."""
        missed, self._label = self._label is not None, None
        self._is_over = True
        if self.phase is not Phase.AUTONOMOUS:
            self._pause("the episode was over before its label" if missed else "the episode has ended")

    def wait_for_person(self, reason: str) -> None:
        """Hold until somebody takes the robot over, and lets it begin or hands it back."""
        self._pause(reason)

    def next(self, view: RobotView) -> Command | None:
        """Return the operator's command for the next step; None where the robot acts by itself.

        Args:
            view: says where the robot stands.
        """
        self.expire()
        if self._label is not None and self._clock() - self._labelled_s >= UNDO_S:
            # Final from here on: it can no longer be taken back.
            label, self._label = self._label, None
            return self._ending(label)
        if self.phase is Phase.AUTONOMOUS:
            return None
        if self.phase is Phase.PAUSED or self._action is None or self.lease is None:
            return HOLD
        if not self._action.any():
            # Hands off the keys: standing still is no step, so it uses up no time limit and is not recorded.
            return HOLD
        action = self._moved(self._action, view) if self._deflects else self._action
        if action is None:
            self._pause("nobody knows where it stands before its first step: hand it back, then take it over")
            return HOLD
        return Command(intent=Intent.TAKE_OVER, action=action, operator_id=self.lease.operator_id)

    def expire(self) -> None:
        """Apply what time alone brings about: the dead-man's switch and the loss of an abandoned lease."""
        now_s = self._clock()
        patience_s = FIRST_COMMAND_S if self._action is None else DEAD_MAN_S
        if self.phase is Phase.HUMAN and now_s - self._commanded_s > patience_s:
            self._pause(f"no command for {1000 * patience_s:.0f} ms")
        if self.lease is not None and now_s - self._alive_s > ABANDONED_S:
            self.abandon(self.lease.client_id)

    def _accept(self, number: int, sequence: int, command: FloatArray, *, deflects: bool) -> None:
        self._require(number)
        size = self._driving.action_size
        if command.shape != (size,) or not np.isfinite(command).all() or (deflects and np.abs(command).max() > 1):
            what, wanted = ("deflection", "numbers in [-1, 1]") if deflects else ("action", "finite numbers")
            self._pause(f"a malformed {what} was refused")
            raise ControlRefused(f"{what} is {command.tolist()[: size + 1]}; send {size} {wanted}")
        self.expire()
        if sequence <= self._sequence or self.phase is not Phase.HUMAN:
            return
        if not deflects:
            # Where it leads nobody knows yet: deflections begin anew from where the robot stands then.
            self._target = None
        self._sequence, self._action, self._deflects, self._commanded_s = sequence, command, deflects, self._clock()

    def _moved(self, deflection: FloatArray, view: RobotView) -> FloatArray | None:
        state = view.observation.state
        if self._target is None:
            self._target = self._driving.still(state, view.executed)
        if self._target is not None:
            self._target = self._driving.moved(self._target, deflection, state)
        return self._target

    def _ending(self, label: Label) -> Command:
        who = "" if self.lease is None else self.lease.operator_id
        if label.outcome is None:
            return Command(intent=Intent.DISCARD, operator_id=who)
        return Command(intent=Intent.LABEL, outcome=label.outcome, operator_id=who)

    def _pause(self, reason: str) -> None:
        self.phase, self.reason = Phase.PAUSED, reason
        self._action = self._target = None
        self._begins = False

    def _require(self, number: int) -> None:
        if self.lease is None or self.lease.number != number:
            raise ControlRefused(f"lease {number} has ended: take the robot over again")
        self._alive_s = self._clock()
