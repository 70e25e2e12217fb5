"""Hostile actions by every way into a session: whatever is sent, a robot gets finite numbers within its limits."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lwd.driving import Driving, drive_axis
from lwd.errors import ControlRefused, RobotFault, ShapeError
from lwd.operators.remote import RemoteOperator
from lwd.robots.session import EpisodeSession
from lwd.types import Command, Embodiment, FloatArray, Intent, Observation, Source, StepResult, Task, TokenSpec

# Limits that are no float32, one that is far away, and one of no width.
LOW = (-1.0, -0.1, 0.0, -3e38, 0.3)
HIGH = (1.0, 0.7, 100.0, 3e38, 0.3)
SIZE = len(LOW)
TASK = Task(
    name="any", instructions=("any",), heldout_instructions=(), sub_steps=(), time_limit=10**9, long_horizon=False
)
STEPS_PER_EPISODE = 2_000


class Recording:
    """A robot that checks nothing, and counts what it must never get."""

    embodiment = Embodiment(
        name="recording", control_hz=1000.0, state_tokens=(TokenSpec(name="state", size=SIZE),), action_low=LOW,
        action_high=HIGH,
    )  # fmt: skip
    driving = Driving(
        control_hz=1000.0,
        axes=tuple(
            drive_axis(f"axis {number}", low, high, absolute=number % 2 == 0, measured=number if number != 2 else None)
            for number, (low, high) in enumerate(zip(LOW, HIGH, strict=True))
        ),
    )

    def __init__(self) -> None:
        self.low_A, self.high_A = np.array(LOW, np.float32), np.array(HIGH, np.float32)
        self.got = self.outside = self.not_finite = self.misshapen = 0

    def reset(self, task: Task, seed: int) -> Observation:
        self._state = np.random.default_rng(seed).normal(0, 1e3, SIZE).astype(np.float32)
        return Observation(state=self._state)

    def step(self, action: Any) -> StepResult:
        self.got += 1
        if type(action) is not np.ndarray or action.dtype != np.float32 or action.shape != (SIZE,):
            self.misshapen += 1
        elif not np.isfinite(action).all():
            self.not_finite += 1
        elif (action < self.low_A).any() or (action > self.high_A).any():
            self.outside += 1
        return StepResult(observation=Observation(state=self._state), outcome=None, sub_step_scores=())

    def hold(self) -> None: ...

    def privileged(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


class Hostile:
    """Has a conversion of its own."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self._content, Exception):
            raise self._content
        return self._content


SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -5e-324, 1e-40, 1e-30, 1.0, -1.0, 0.1, 0.7, 0.3, 1 + 1e-7, 1e30, -1e30,
     3.4028235e38, -3.4028235e38, 3.5e38, 1e300, -1e300, 1.7976931348623157e308, 100.00001, 65504.0]
)  # fmt: skip
DTYPES = (np.float32, np.float64, np.float16, np.longdouble, np.int64, np.uint64, np.int8, np.bool_, np.complex128)


def misfit(draw: np.random.Generator, size: int) -> Any:
    """Return what is no array of that size, or only looks like one."""
    choices: tuple[Callable[[], Any], ...] = (
        lambda: np.zeros(size + 1), lambda: np.zeros(size - 1), lambda: np.zeros((size, 1)), lambda: np.float64(1.0),
        lambda: None, lambda: "1.0", lambda: ["0.5"] * size, lambda: [None] * size, lambda: [[0.0]] * size,
        lambda: [0.0] * (size - 1) + [[0.0]], lambda: {"a": 1}, lambda: object(), lambda: [object()] * size,
        lambda: np.array([b"x"] * size), lambda: np.zeros(size, "datetime64[s]"), lambda: np.zeros(size, "O"),
        lambda: Hostile(ValueError("no")), lambda: Hostile(np.full(size, np.nan)), lambda: Hostile(np.zeros(size, "U")),
        lambda: np.ma.masked_array(np.full(size, np.inf), mask=True), lambda: [10**400] + [0] * (size - 1),
        lambda: np.zeros((0,)), lambda: np.zeros((2, 0)), lambda: iter([0.0] * size), lambda: 1j,
    )  # fmt: skip
    return choices[int(draw.integers(len(choices)))]()


def numbers(draw: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Return numbers of a shape: at random, special ones among them, in any type."""
    found = draw.normal(0, 10.0 ** draw.integers(-5, 40), shape)
    special = draw.random(shape) < 0.3
    finite = SPECIAL[3:] if draw.random() < 0.7 else SPECIAL
    found[special] = draw.choice(finite, int(special.sum()))
    with np.errstate(all="ignore"):
        typed = found.astype(DTYPES[int(draw.integers(len(DTYPES)))] if draw.random() < 0.4 else np.float32)
    return typed.tolist() if draw.random() < 0.1 else typed


def as_sent(action: Any) -> FloatArray | None:
    """Return an action as the bus brings it: a vector of numbers, of any length. None: no message can carry it."""
    try:
        with np.errstate(all="ignore"):
            return np.array(action, np.float32).reshape(-1)
    except Exception:
        return None


class Attack:
    """Sends as many actions as it is told, by turns as a chunk, a joined chunk, a take-over and a deflection."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.robot = Recording()
        self.sent = self.refused = 0
        self._seed = seed

    def run(self, count: int) -> None:
        ways = (self._chunk, self._join, self._take_over, self._jog)
        while self.sent < count:
            operator = RemoteOperator(self.robot.driving)
            self._seed += 1
            session = EpisodeSession(
                self.robot, TASK, "any", seed=self._seed, robot_id="r", source=Source.FLEET, policy_version=1,
                world="w", operator=operator,
            )  # fmt: skip
            until = min(count, self.sent + STEPS_PER_EPISODE)
            while self.sent < until and not session.done:
                ways[int(self.draw.integers(len(ways)))](session, operator)

    def _chunk(self, session: EpisodeSession, operator: RemoteOperator) -> None:
        chunk = self._some_chunk()
        self._trying(lambda: session.load_chunk(chunk))
        self._step(session)

    def _join(self, session: EpisodeSession, operator: RemoteOperator) -> None:
        first, second = self._some_chunk(), self._some_chunk()
        self._trying(lambda: session.load_chunk(first))
        self._trying(session.step)
        self._trying(lambda: session.join_chunk(second, executed=1))
        self._step(session)

    def _take_over(self, session: EpisodeSession, operator: RemoteOperator) -> None:
        self._driven(session, operator, operator.drive)

    def _jog(self, session: EpisodeSession, operator: RemoteOperator) -> None:
        self._driven(session, operator, operator.jog)

    def _driven(self, session: EpisodeSession, operator: RemoteOperator, send: Callable[..., None]) -> None:
        operator.take("mallory", "tab")
        lease = operator.view().lease
        for sequence in range(20):
            self.sent += 1
            action = self._some((SIZE,))
            if send == operator.jog and self.draw.random() < 0.5:
                action = self.draw.uniform(-1, 1, SIZE).astype(np.float32)
            self._trying(lambda: operator.apply("resume", lease))
            if (content := as_sent(action)) is not None:
                self._trying(functools.partial(send, lease, sequence, content))
            self._trying(session.step)
        self._trying(lambda: operator.apply("release", lease))

    def _some_chunk(self) -> Any:
        horizon = int(self.draw.integers(1, 40))
        self.sent += horizon
        return self._some((horizon, SIZE))

    def _some(self, shape: tuple[int, ...]) -> Any:
        return misfit(self.draw, SIZE) if self.draw.random() < 0.1 else numbers(self.draw, shape)

    def _step(self, session: EpisodeSession) -> None:
        while session.queued:
            self._trying(session.step)

    def _trying(self, call: Callable[[], object]) -> None:
        try:
            with np.errstate(all="ignore"):
                call()
        except (RobotFault, ShapeError, ControlRefused):
            self.refused += 1


class Scripted:
    """An operator of this process: what it commands has gone through no message."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack

    def begin(self, view: Any, seed: int) -> None: ...

    def poll(self, view: Any) -> Any:
        self._attack.sent += 1
        return Command(intent=Intent.TAKE_OVER, action=self._attack._some((SIZE,)))


def scripted(attack: Attack, count: int) -> None:
    """Let an operator of this process command `count` actions."""
    until = attack.sent + count
    while attack.sent < until:
        session = EpisodeSession(
            attack.robot, TASK, "any", seed=attack.sent, robot_id="r", source=Source.PLAY, policy_version=-1,
            world="w", operator=Scripted(attack),
        )  # fmt: skip
        for _ in range(min(STEPS_PER_EPISODE, until - attack.sent)):
            attack._trying(session.step)


def attacked(seed: int, count: int) -> Iterator[Attack]:
    attack = Attack(seed)
    attack.run(count * 3 // 4)
    scripted(attack, count - attack.sent)
    yield attack


def check(count: int, measured: Callable[[str, str, str], None]) -> None:
    begun_s = time.monotonic()
    for attack in attacked(7, count):
        robot = attack.robot
        wrong = {"outside": robot.outside, "not finite": robot.not_finite, "of another shape": robot.misshapen}
        measured(
            f"{attack.sent} hostile actions as chunks, joined chunks, take-overs, deflections, a script's",
            f"{robot.got} reached the robot in {time.monotonic() - begun_s:.0f} s: "
            + ", ".join(f"{number} {what}" for what, number in wrong.items()),
            "0 outside, 0 not finite, 0 of another shape",
        )
        assert attack.sent >= count
        # Else it was the fuzz that let nothing through.
        assert robot.got > count / 10
        assert attack.refused > count / 100
        assert wrong == {"outside": 0, "not finite": 0, "of another shape": 0}


def test_no_hostile_action_reaches_a_robot(measured):
    check(20_000, measured)


@pytest.mark.attacks
def test_no_hostile_action_of_a_million_reaches_a_robot(measured):
    check(1_000_000, measured)
