"""Stop everything: every host holds and latches, whatever else of the fleet is dead, until somebody releases it."""

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lwd.fleet.bus import Bus
from lwd.fleet.messages import CONTROL_SUBJECT, ControlCommand, ControlState, command_subject
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.stop_bus import keep_stops, read_stops
from lwd.fleet.stop_files import StopFiles, StopFileThread
from lwd.fleet.stop_messages import STOP_SUBJECT, STOPPED_SUBJECT, StopOrder, StopReport, StopState
from lwd.types import FloatArray, Observation, Outcome, StepResult, Task

from .. import driven_fleet
from ..nats_servers import free_port
from .conftest import Measured

WITHIN_S = 20.0
"""For machines that are busy with something else."""
Use = Callable[[Callable[[Bus], Awaitable[Any]]], Any]


class Journaling(driven_fleet.PosedPointMass):
    """Notes when it was moved and held."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[tuple[float, str]] = []

    def reset(self, task: Task, seed: int) -> Observation:
        self.commands.append((time.monotonic(), "reset"))
        return super().reset(task, seed)

    def step(self, action: FloatArray) -> StepResult:
        self.commands.append((time.monotonic(), "step"))
        return super().step(action)

    def hold(self) -> None:
        super().hold()
        self.commands.append((time.monotonic(), "hold"))

    def moves_after(self, at_s: float) -> int:
        return sum(what != "hold" for when_s, what in self.commands if when_s > at_s)


class ElsewhereServer:
    """A message bus that is not there."""

    url = f"nats://127.0.0.1:{free_port()}"


def order(by: str = "ada", reason: str = "smoke") -> StopOrder:
    return StopOrder(stop_id=uuid.uuid4().hex, by=by, reason=reason, at_s=time.time())


def until(condition: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "not within the time"
        time.sleep(0.005)


@contextmanager
def running(fleet: driven_fleet.DrivenFleet, *, steps: int = 20) -> Iterator[list[Journaling]]:
    stop = threading.Event()
    thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
    thread.start()
    robots = [unit.robot for unit in fleet._units]
    try:
        until(lambda: all(robot.moves_after(0.0) >= steps for robot in robots))
        yield robots
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def on_bus(server: NatsServer) -> Iterator[Use]:
    """Runs a coroutine with a connection such as a console has."""

    def run(use: Callable[[Bus], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            connection = await Bus.connect(server.url, name="test")
            try:
                return await use(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    async def release_all(bus: Bus) -> None:
        state = await read_stops(bus)
        await keep_stops(bus, state.released([stop.stop_id for stop in state.active], "test", "", time.time()))

    yield run
    # The entry outlives a test.
    run(release_all)


def sent(state: StopState) -> Callable[[Bus], Awaitable[None]]:
    return lambda bus: bus.publish(STOP_SUBJECT, state)


def confirmed(state: StopState) -> Callable[[Bus], Awaitable[float]]:
    """Send a state and wait until a host says that its robots hold; returns when it was sent."""

    async def use(bus: Bus) -> float:
        holding = asyncio.Event()

        async def note(report: StopReport) -> None:
            if report.holds:
                holding.set()

        await bus.subscribe(f"{STOPPED_SUBJECT}.*", StopReport, note)
        sent_s = time.monotonic()
        await bus.publish(STOP_SUBJECT, state)
        async with asyncio.timeout(WITHIN_S):
            await holding.wait()
        return sent_s

    return use


def test_stop_over_the_bus_holds_every_robot_and_latches_until_the_release(
    tmp_path, server, on_bus, measured: Measured
) -> None:
    stop = order()
    with (
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, robots=4, make=Journaling) as fleet,
        running(fleet) as robots,
    ):
        sent_s = on_bus(confirmed(StopState(stops=(stop,))))
        confirmed_s = time.monotonic()
        time.sleep(0.5)
        assert [robot.moves_after(confirmed_s) for robot in robots] == [0] * 4
        assert {robot.commands[-1][1] for robot in robots} == {"hold"}
        commands = [command for robot in robots for command in robot.commands if command[0] > sent_s]
        hold_s = min(when_s for when_s, what in commands if what == "hold") - sent_s
        last_s = max([when_s for when_s, what in commands if what != "hold"], default=sent_s) - sent_s
        measured(
            "stop over the bus, 4 robots",
            f"first hold after {1000 * hold_s:.0f} ms, last step {1000 * last_s:.0f} ms",
            "no step after the confirmation",
        )
        assert fleet.network.alarm == "stopped by ada: smoke"
        holds = [robot.holds for robot in robots]
        until(lambda: all(robot.holds > before for robot, before in zip(robots, holds, strict=True)))

        on_bus(sent(StopState(stops=(stop,)).released([stop.stop_id], "bob", "looked at it", time.time())))
        until(lambda: all(robot.moves_after(confirmed_s) > 5 for robot in robots))
        until(lambda: not fleet.network.alarm)
        # Neither a success nor a failure: the task was not over.
        until(lambda: fleet.network.unspooled == 0)
        assert {entry.outcome for entry in fleet.finish()} == {Outcome.TRUNCATED}


def test_stop_refuses_whoever_drives_and_lets_them_take_the_robot(tmp_path, server, on_bus) -> None:
    with (
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=Journaling) as fleet,
        running(fleet) as robots,
    ):

        async def use(bus: Bus) -> list[str]:
            answers: list[ControlState] = []

            async def note(state: ControlState) -> None:
                answers.append(state)

            await bus.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, note)
            refusals = []
            for number, verb in enumerate(("take", "resume", "drive", "jog")):
                command = ControlCommand(
                    robot_id="robot-0",
                    verb=verb,
                    operator_id="eve",
                    client_id="tab",
                    lease=1 if number else 0,
                    sequence=number,
                    action=(1.0, 1.0) if verb in ("drive", "jog") else (),
                    request_id=f"r{number}",
                )
                await bus.publish(command_subject("robot-0"), command)
                async with asyncio.timeout(WITHIN_S):
                    while not any(answer.request_id == f"r{number}" for answer in answers):
                        await asyncio.sleep(0.01)
                refusals.append(next(answer.refused for answer in answers if answer.request_id == f"r{number}"))
            return refusals

        on_bus(confirmed(StopState(stops=(order(),))))
        at_s = time.monotonic()
        taken, *driven = on_bus(use)
        assert taken == ""
        assert all("stopped by ada: smoke: nothing moves until it is released" in refusal for refusal in driven)
        assert robots[0].moves_after(at_s) == 0


def test_stop_kept_on_the_bus_holds_a_host_that_starts_later(tmp_path, server, on_bus) -> None:
    stop = order(reason="night")
    on_bus(lambda bus: keep_stops(bus, StopState(stops=(stop,))))
    with (
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=Journaling) as fleet,
        running(fleet, steps=0) as robots,
    ):
        until(lambda: fleet.network.policies.newest is not None and fleet.network.alarm)
        until(lambda: robots[0].holds > 0)
        assert robots[0].moves_after(0.0) == 0
        released = StopState(stops=(stop,)).released([stop.stop_id], "bob", "morning", time.time())
        on_bus(lambda bus: keep_stops(bus, released))
        # By the entry alone: it looks every two seconds.
        until(lambda: robots[0].moves_after(0.0) > 5)


def test_release_undoes_no_stop_that_its_author_did_not_name(tmp_path, server, on_bus) -> None:
    first, second = order("ada"), order("bob", "a finger is in there")
    with (
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=Journaling) as fleet,
        running(fleet) as robots,
    ):
        on_bus(confirmed(StopState(stops=(first, second))))
        on_bus(sent(StopState(stops=(first,)).released([first.stop_id], "ada", "mine is over", time.time())))
        at_s = time.monotonic()
        until(lambda: fleet.network.alarm == "stopped by bob: a finger is in there")
        time.sleep(0.3)
        # A replayed stop that was released stops nobody again.
        on_bus(sent(StopState(stops=(first,))))
        assert robots[0].moves_after(at_s) == 0
        both = StopState().released([first.stop_id, second.stop_id], "bob", "out again", time.time())
        on_bus(sent(both))
        until(lambda: robots[0].moves_after(at_s) > 5)


def test_stop_by_file_works_while_the_bus_is_down(tmp_path, measured: Measured) -> None:
    files = StopFiles(tmp_path)
    with driven_fleet.driven_fleet(tmp_path, ElsewhereServer(), gain=0.0, robots=2, make=Journaling) as fleet:
        thread = StopFileThread(StopFiles(tmp_path), fleet.network.latch)
        thread.report = fleet.network.stops.report
        with running(fleet) as robots:
            button = files.directory / "button"
            button.touch()
            pressed_s = time.monotonic()
            until(lambda: any(report.holds for report in files.hosts()))
            confirmed_s = time.monotonic()
            time.sleep(0.3)
            assert [robot.moves_after(confirmed_s) for robot in robots] == [0, 0]
            last_s = max(when_s for robot in robots for when_s, what in robot.commands if what != "hold")
            measured(
                "touch RUN/stop/button, bus down",
                f"last step {1000 * max(0.0, last_s - pressed_s):.0f} ms after it",
                "no step after the confirmation",
            )
            # To delete the file is no release.
            button.unlink()
            time.sleep(0.3)
            assert [robot.moves_after(confirmed_s) for robot in robots] == [0, 0]
            state = files.read()
            files.write(state.released([stop.stop_id for stop in fleet.network.latch.active], "ada", "looked", 1.0))
            until(lambda: all(robot.moves_after(confirmed_s) > 5 for robot in robots))
        thread.close()


class HangingStep(Journaling):
    """Its driver does not come back from the step after which it is told to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.goes_on = threading.Event()

    def step(self, action: FloatArray) -> StepResult:
        if self.hangs.is_set():
            self.goes_on.wait(WITHIN_S)
        return super().step(action)


def test_stop_holds_the_others_while_one_robot_hangs_in_its_step(tmp_path, server, on_bus) -> None:
    with (
        driven_fleet.driven_fleet(tmp_path, server, gain=0.0, robots=3, make=HangingStep) as fleet,
        running(fleet) as robots,
    ):
        robots[1].hangs.set()
        count = len(robots[1].commands)
        until(lambda: len(robots[1].commands) in (count, count + 1))
        time.sleep(0.1)
        pressed_s = time.monotonic()
        on_bus(sent(StopState(stops=(order(),))))
        # All three are told at once; the one that hangs is not said to hold.
        until(lambda: all(robot.commands[-1][1] == "hold" for robot in robots), 5.0)
        assert [robot.holds for robot in fleet.network.stops.holds()] == [True, False, True]
        robots[1].goes_on.set()
        until(lambda: all(robot.holds for robot in fleet.network.stops.holds()))
        # What was on its way came last; then it was held again.
        assert [what for when_s, what in robots[1].commands if when_s > pressed_s][-1] == "hold"
        assert sum(robot.moves_after(pressed_s) for robot in robots) <= 1
