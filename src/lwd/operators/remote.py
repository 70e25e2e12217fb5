"""An operator somewhere else: a person at the console, or a device, who may take over whatever acts otherwise.

Two threads meet here. The robots' thread polls; the network's thread brings the operator's commands in.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lwd.driving import Driving
from lwd.errors import ControlRefused, OperatorFault, RobotFault
from lwd.operators.help import HelpRule
from lwd.operators.protocol import OBSERVE, Command, DeviceOperator, Intent, Operator, RobotView
from lwd.operators.takeover import Label, Phase, Takeover
from lwd.types import FloatArray, Outcome

SCRIPTED = "scripted"
"""Operator id of the steps that a scripted operator makes."""


@dataclass(frozen=True, kw_only=True)
class ControlView:
    """The state of control, for whoever watches."""

    phase: Phase
    lease: int
    """0: nobody holds it."""
    operator_id: str
    client_id: str
    reason: str
    help_reason: str
    """Why the robot asks for help; empty if it does not."""
    help_for_s: float
    label: str
    """The label that can still be taken back: an outcome, "discard", or empty."""
    waits: bool = False
    """Whether no episode runs, and the next one waits for `resume` or `release`."""


class RemoteOperator:
    """Lets one remote operator at a time take over from the policy and from a scripted operator."""

    def __init__(
        self,
        driving: Driving,
        *,
        otherwise: Operator | None = None,
        help_rule: HelpRule | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            driving: what deflections do to the robot's action.
            otherwise: acts while nobody has taken over.
            help_rule: says when the robot asks for an operator; None: never.
        """
        self._takeover = Takeover(driving, clock=clock)
        self._otherwise = otherwise
        self._help_rule = help_rule
        self.on_change: Callable[[], None] = lambda: None
        """Called in the robots' thread when the state of control has changed by itself."""
        self._clock = clock
        self._lock = threading.Lock()
        self._help = ""
        self._help_since_s = 0.0

    def connect(self) -> None:
        """Connect the device of whoever acts otherwise, if it has one.

        Raises:
            OperatorFault: if it cannot be.
        """
        if isinstance(self._otherwise, DeviceOperator):
            with self._its_fault():
                self._otherwise.connect()

    def close(self) -> None:
        """Release it."""
        if isinstance(self._otherwise, DeviceOperator):
            self._otherwise.close()

    @contextlib.contextmanager
    def _its_fault(self) -> Iterator[None]:
        try:
            yield
        except RobotFault:
            raise
        except (Exception, SystemExit) as error:  # of a device or a script, nearly anything
            raise OperatorFault(f"{type(self._otherwise).__name__} raised {type(error).__name__}: {error}") from error

    def begin(self, view: RobotView, seed: int) -> None:
        """A new episode begins; a robot that is under a lease holds first.

        Raises:
            OperatorFault: if whoever acts otherwise fails.
        """
        if self._otherwise is not None:
            with self._its_fault():
                self._otherwise.begin(view, seed)
        with self._lock:
            self._takeover.begin()
            self._help = ""
            if self._help_rule is not None:
                self._help_rule.begin(view)
        self.on_change()

    def over(self) -> None:
        """The episode has ended, or none has begun yet; under a lease the next one waits for the operator."""
        with self._lock:
            self._takeover.over()
        self.on_change()

    def wait_for_person(self, reason: str) -> None:
        """Begin no episode until somebody took the robot over and lets it begin, or hands it back."""
        with self._lock:
            self._takeover.wait_for_person(reason)
        self.on_change()

    @property
    def may_begin(self) -> bool:
        """Whether the robot may go to the start of its next episode now; asked at each control step on its way."""
        with self._lock:
            self._takeover.expire()
            return self._takeover.may_begin

    def poll(self, view: RobotView) -> Command:
        """Return the remote operator's command, or that of the other one.

        Raises:
            OperatorFault: if that one fails.
        """
        with self._lock:
            before = self._takeover.phase
            command = self._takeover.next(view)
            changed = self._takeover.phase is not before or self._look_for_help(view)
        if changed:
            self.on_change()
        if command is not None:
            return command
        if self._otherwise is None:
            return OBSERVE
        with self._its_fault():
            command = self._otherwise.poll(view)
        return replace(command, operator_id=SCRIPTED) if command.intent is Intent.TAKE_OVER else command

    def _look_for_help(self, view: RobotView) -> bool:
        if self._help_rule is None:
            return False
        reason = self._help_rule.observe(view)
        if bool(reason) and not self._help:
            self._help_since_s = self._clock()
        changed, self._help = bool(reason) != bool(self._help), reason
        return changed

    @property
    def drives(self) -> bool:
        """Whether a person drives now, so that a simulator must keep to real time."""
        return self._takeover.phase is Phase.HUMAN

    def view(self) -> ControlView:
        """Return the state of control, as of now."""
        with self._lock:
            self._takeover.expire()
            lease, label = self._takeover.lease, self._takeover.label
            return ControlView(
                phase=self._takeover.phase,
                lease=0 if lease is None else lease.number,
                operator_id="" if lease is None else lease.operator_id,
                client_id="" if lease is None else lease.client_id,
                reason=self._takeover.reason,
                help_reason=self._help,
                help_for_s=self._clock() - self._help_since_s if self._help else 0.0,
                label="" if label is None else ("discard" if label.outcome is None else label.outcome.value),
                waits=self._takeover.waits,
            )

    def take(self, operator_id: str, client_id: str) -> None:
        """Take the robot over; it holds until `resume`."""
        with self._lock:
            self._takeover.take(operator_id, client_id)

    def drive(self, lease: int, sequence: int, action: FloatArray) -> None:
        """Say what the robot is to do now."""
        with self._lock:
            self._takeover.drive(lease, sequence, action)

    def jog(self, lease: int, sequence: int, deflection: FloatArray) -> None:
        """Say how far each axis of the robot is deflected now."""
        with self._lock:
            self._takeover.jog(lease, sequence, deflection)

    def abandon(self, client_id: str) -> None:
        """A client is gone."""
        with self._lock:
            self._takeover.abandon(client_id)

    def end(self, lease: int, outcome: Outcome | None) -> None:
        """End the episode with a label, soon."""
        with self._lock:
            self._takeover.end(lease, Label(outcome=outcome))

    def apply(self, verb: str, lease: int) -> None:
        """Do one of resume, pause, release, undo and keep.

        Raises:
            ControlRefused: if the state or the lease does not allow it.
        """
        with self._lock:
            match verb:
                case "resume":
                    self._takeover.resume(lease)
                case "pause":
                    self._takeover.pause(lease)
                case "release":
                    self._takeover.release(lease)
                case "undo":
                    self._takeover.undo(lease)
                case "keep":
                    self._takeover.keep(lease)
                case _:
                    raise ControlRefused(f"{verb!r} is no command: use resume, pause, release, undo or keep")
