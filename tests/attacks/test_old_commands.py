"""A network that delays, repeats and replays commands: no robot moves by one that is old."""

import asyncio

import pytest
from tests import driven_fleet
from tests.unit.fleet.test_console_link import Operator, running, until

from lwd.fleet.messages import ControlCommand, ControlState, command_subject
from lwd.fleet.nats_server import NatsServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Delaying(Operator):
    """Keeps what it would send, for a bus that delivers it later."""

    async def hold_back(self, robot_id: str, verb: str, lease: int, **rest) -> ControlCommand:
        await self.look(robot_id)
        return ControlCommand(
            robot_id=robot_id, verb=verb, operator_id=self.name, client_id=f"{self.name}-tab", lease=lease,
            seen_s=self.states[robot_id].robot_time_s, **rest,
        )  # fmt: skip

    async def ask_with(self, command: ControlCommand) -> ControlState:
        await self.deliver(command.model_copy(update={"request_id": "late"}))
        await until(lambda: "late" in self.answers)
        return self.answers["late"]

    async def deliver(self, command: ControlCommand) -> None:
        await self.bus.publish(command_subject(command.robot_id), command)


def test_delayed_commands_move_nothing_and_say_why(tmp_path, server, measured):
    """The operator let go long ago: the bus delivers what makes a robot move only now."""
    moved: dict[str, int] = {}

    async def attack() -> None:
        ada = await Delaying.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 5)
        taken = await ada.ask("robot-0", "take")
        late = [await ada.hold_back("robot-0", "resume", taken.lease)]
        late += [
            await ada.hold_back("robot-0", "drive", taken.lease, sequence=n, action=(1.0, 1.0)) for n in range(1, 4)
        ]
        release = await ada.hold_back("robot-0", "release", taken.lease)
        await asyncio.sleep(0.8)
        ada.states.clear()
        before = fleet.steps_of("robot-0")
        for command in [*late, release] * 3:
            await ada.deliver(command)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        moved["late"] = fleet.steps_of("robot-0") - before
        answer = await ada.ask_with(late[0])
        assert "came late: its sender saw the robot" in answer.refused
        assert (answer.phase, answer.lease) == ("paused", taken.lease)
        # In time, they do.
        await ada.ask("robot-0", "resume", taken.lease)
        await ada.drive("robot-0", taken.lease, (1.0, 1.0), 0.3)
        moved["in time"] = fleet.steps_of("robot-0") - before
        # What holds is obeyed however old: the same bus delivers a take-over and a pause late.
        assert (await ada.ask("robot-0", "pause", taken.lease, seen_s=0.001)).phase == "paused"
        await ada.ask("robot-0", "release", taken.lease)
        assert (await ada.ask("robot-0", "take", seen_s=0.001)).phase == "paused"
        await ada.bus.close()

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet, running(fleet):
        asyncio.run(attack())
    measured(
        "resume, drive and release delivered 0.8 s late, three times over",
        f"{moved['late']} steps (in time: {moved['in time']})",
        "0 steps",
    )
    assert moved["late"] == 0
    assert moved["in time"] > 0


def test_a_console_of_an_earlier_version_drives_nothing_and_can_hand_back(tmp_path, server):
    async def attack() -> None:
        ada = await Operator.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 5)
        taken = await ada.ask("robot-0", "take", seen_s=0.0)
        refused = await ada.ask("robot-0", "resume", taken.lease, seen_s=0.0)
        assert refused.refused.startswith("resume does not say what its sender saw")
        assert (await ada.ask("robot-0", "release", taken.lease, seen_s=0.0)).phase == "autonomous"
        await ada.bus.close()

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet, running(fleet):
        asyncio.run(attack())


def test_thirty_late_commands_a_second_are_refused_with_one_answer_a_second(tmp_path, server):
    answers: list[str] = []

    async def attack() -> None:
        ada = await Delaying.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 5)
        taken = await ada.ask("robot-0", "take")
        late = await ada.hold_back("robot-0", "jog", taken.lease, sequence=1, action=(1.0, 0.0))
        ada.on_refused = answers.append
        await asyncio.sleep(0.6)
        for _ in range(30):
            await ada.deliver(late)
            await asyncio.sleep(0.03)
        await asyncio.sleep(0.1)
        await ada.bus.close()

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet, running(fleet):
        asyncio.run(attack())
    assert 1 <= len(answers) <= 3
