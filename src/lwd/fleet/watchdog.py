"""A thread that only watches: the robots hold when somebody stops them, and when their loop does not turn.

It waits for nothing that could hang: no lock of the robots' thread, no disk, no network; each hold runs in a thread of
its own. What it cannot see: C code that keeps the interpreter's lock (its thread stands, too), and a process that is
frozen as a whole (SIGSTOP, a machine that sleeps). The first command after such a time is refused by the robot's gate,
so no plan from before it is executed; in the meantime only the device's own time-out stops motors.
"""

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_messages import RobotHold
from lwd.robots.gate import Gate
from lwd.robots.protocol import ObservingRobot, Robot

Phase = Literal["the host", "policy.act", "robot.reset", "robot.step", "robot.observe"]

HOLD_EVERY_S = 1.0
"""How often a stopped robot is told to hold again."""
SIMULATED_S = 10.0
"""A loop of simulated robots may stand so long: they stand with it, and many share a busy machine."""
_TICK_S = 0.05
_LEAST_S = 1.0
_MOST_S = 10.0
_PERIODS = 5
_INFERENCES = 4
"""How many times its slowest recent inference a policy may take."""

_logger = logging.getLogger(__name__)
Alarm = Callable[[str], None]


def awake_s() -> float:
    """Seconds of a clock that also counts while the machine sleeps, where the system has one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """What the robots' thread does, and since when; replaced as a whole."""

    phase: Phase
    robot_id: str
    since_s: float


class Watchdog:
    """Watches the loop of one host. `turn` and `take_late` are the robots' thread's, which moves robots by `gates`."""

    def __init__(
        self,
        robots: Mapping[str, Robot],
        latch: StopLatch,
        *,
        on_alarm: Alarm = lambda _: None,
        on_hold: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = awake_s,
    ) -> None:
        """
        Args:
            on_alarm: told why the robots hold, and "" once they need not; in the watchdog's thread, must not wait.
            on_hold: called after every hold, in that hold's thread.
        """
        self._latch, self._clock = latch, clock
        self._on_alarm, self._on_hold = on_alarm, on_hold
        self.gates = {name: Gate(robot, functools.partial(self._why, name)) for name, robot in robots.items()}
        real = [robot for robot in robots.values() if isinstance(robot, ObservingRobot)]
        slowest_hz = min((robot.embodiment.control_hz for robot in real), default=0.0)
        self._bound_s = max(_LEAST_S, _PERIODS / slowest_hz) if real else SIMULATED_S
        self._acting_s: deque[float] = deque([0.0, 0.0], maxlen=20)
        self._turn = _Turn(phase="the host", robot_id="", since_s=clock())
        self._late = ""
        self._holding: dict[str, threading.Thread] = {}
        self._next_hold_s = dict.fromkeys(robots, 0.0)
        self._alarm = ""
        self._closing = False
        self._wake = threading.Event()
        latch.listen(self._wake.set)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._turn = _Turn(phase="the host", robot_id="", since_s=self._clock())
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def turn(self, phase: Phase, robot_id: str = "") -> None:
        """The robots' thread begins something else: the loop turns."""
        now_s, before = self._clock(), self._turn
        self._late = self._late or self._standstill(before, now_s)
        if before.phase == "policy.act":
            self._acting_s.append(now_s - before.since_s)
        self._turn = _Turn(phase=phase, robot_id=robot_id, since_s=now_s)

    def take_late(self) -> str:
        """Say, once, that the loop stood still and in what: what was planned before must not be executed."""
        late, self._late = self._late, ""
        return late

    def holds(self) -> tuple[RobotHold, ...]:
        """Return whether each robot holds."""
        return tuple(
            RobotHold(robot_id=name, holds=gate.holds, error="" if gate.holds else self._why_not(name, gate)[:500])
            for name, gate in self.gates.items()
        )

    def _why_not(self, name: str, gate: Gate) -> str:
        if gate.error:
            return gate.error
        thread = self._holding.get(name)
        return "its hold has not returned" if thread is not None and thread.is_alive() else "a command is under way"

    def _why(self, robot_id: str) -> str:
        """Say why a robot may not be sent a command."""
        if reason := self._latch.reason:
            return reason
        turn = self._turn
        if turn.phase == "robot.reset" and turn.robot_id == robot_id:
            # It takes as long as it takes, and executes no plan.
            return ""
        self._late = self._late or self._standstill(turn, self._clock())
        return self._late

    def _standstill(self, turn: _Turn, now_s: float) -> str:
        stood_s = now_s - turn.since_s
        if stood_s <= self._may_take_s(turn.phase):
            return ""
        where = f"{turn.phase} of {turn.robot_id}" if turn.robot_id else turn.phase
        return f"the robots' loop has not turned for {stood_s:.1f} s (in {where})"

    def _may_take_s(self, phase: Phase) -> float:
        if phase != "policy.act":
            return self._bound_s
        # A policy that is slow by nature must not be stopped each time; one slow inference is none.
        return max(self._bound_s, min(_MOST_S, _INFERENCES * sorted(self._acting_s)[-2]))

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            try:
                self._look()
            except Exception:  # one that is not there any more would be missed by nobody
                _logger.exception("the watchdog failed, and goes on")

    def _look(self) -> None:
        turn, now_s = self._turn, self._clock()
        alarm = self._latch.reason or self._standstill(turn, now_s)
        is_new = bool(alarm) != bool(self._alarm) or (self._latch.is_set and alarm != self._alarm)
        if is_new:
            # At once, whenever the last one was.
            self._next_hold_s = dict.fromkeys(self.gates, now_s)
        if alarm:
            self._hold_due(turn, now_s)
        self._alarm = alarm
        if is_new:
            self._tell(alarm)

    def _hold_due(self, turn: _Turn, now_s: float) -> None:
        for name in self.gates:
            # Until somebody stops it, a robot is not held on its way to its start: that is no plan of before.
            is_reset = turn.phase == "robot.reset" and turn.robot_id == name and not self._latch.is_set
            if now_s >= self._next_hold_s[name] and not is_reset:
                self._next_hold_s[name] = now_s + HOLD_EVERY_S
                self._hold(name)

    def _tell(self, alarm: str) -> None:
        if alarm:
            _logger.error("%s: the robots hold", alarm)
        else:
            _logger.info("the robots may move again: their loop turns and nobody stops them")
        self._on_alarm(alarm)

    def _hold(self, name: str) -> None:
        thread = self._holding.get(name)
        if thread is not None and thread.is_alive():
            return
        self._holding[name] = thread = threading.Thread(
            target=self._hold_one, args=(name,), name=f"hold {name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the machine takes no more threads
            self._hold_one(name)

    def _hold_one(self, name: str) -> None:
        gate = self.gates[name]
        before = gate.error
        if not gate.hold() and gate.error != before:
            _logger.error("robot %s is not known to hold: %s", name, gate.error)
        self._on_hold()
