"""A policy that does not return: the robots hold meanwhile, everybody is told, and what it planned is dropped."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from lwd.fleet.bus import Bus
from lwd.fleet.messages import HostHeartbeat, host_subject
from lwd.fleet.nats_server import NatsServer
from lwd.types import FloatArray, Observation, StepResult

from .. import driven_fleet, point_mass

WITHIN_S = 20.0


class RealPointMass(driven_fleet.PosedPointMass):
    """Moves on when no step comes, as far as the host can know."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def step(self, action: FloatArray) -> StepResult:
        self.steps += 1
        return super().step(action)

    def observe(self) -> Observation:
        return self._observe()


class HangingPolicy(point_mass.SteeringPolicy):
    """Once told to, it answers when it may go on, with what it began to plan before."""

    hangs, goes_on = threading.Event(), threading.Event()

    def act(self, observations, instructions, *, generator):
        chunks_BHA = super().act(observations, instructions, generator=generator)
        if self.hangs.is_set():
            self.hangs.clear()
            self.goes_on.wait(WITHIN_S)
        return chunks_BHA


def until(condition) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.fixture
def fleet(tmp_path, monkeypatch) -> Iterator[driven_fleet.DrivenFleet]:
    monkeypatch.setattr(point_mass, "load_policy", lambda data: HangingPolicy(0.0))
    with (
        NatsServer(tmp_path / "nats") as server,
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=RealPointMass) as fleet,
    ):
        fleet.url = server.url
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            yield fleet
        finally:
            HangingPolicy.goes_on.set()
            stop.set()
            thread.join()


def test_hung_policy_is_seen_and_the_robot_holds(fleet):
    robot = fleet._units[0].robot
    until(lambda: robot.steps > 20)
    HangingPolicy.goes_on.clear()
    HangingPolicy.hangs.set()
    until(lambda: not HangingPolicy.hangs.is_set())
    hung_s, holds, steps = time.monotonic(), robot.holds, robot.steps
    until(lambda: robot.holds > holds)
    assert "(in policy.act)" in asyncio.run(heartbeat_error(fleet.url))
    # Again and again, as long as it takes.
    until(lambda: robot.holds > holds + 1)
    assert time.monotonic() - hung_s >= 1
    assert robot.steps == steps

    # What it planned from is old by now: it is asked again before the robot moves.
    asked = len(fleet.network.policies.newest.policy.batches)
    HangingPolicy.goes_on.set()
    until(lambda: robot.steps > steps)
    assert len(fleet.network.policies.newest.policy.batches) > asked
    until(lambda: not fleet.network.alarm)


async def heartbeat_error(url: str) -> str:
    bus = await Bus.connect(url, name="test")
    error: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def note(beat: HostHeartbeat) -> None:
        if beat.error and not error.done():
            error.set_result(beat.error)

    try:
        await bus.subscribe(host_subject("*"), HostHeartbeat, note)
        async with asyncio.timeout(WITHIN_S):
            return await error
    finally:
        await bus.close()
