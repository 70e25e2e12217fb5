"""A person drives a robot of a running host over a real bus: what is recorded, who is refused, what is shown."""

import asyncio
import io
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lwd.data.episode_file import read_episode
from lwd.driving import LEAD_S, Driving, drive_axis
from lwd.errors import RobotFault, ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import (
    CONTROL_SUBJECT,
    POSES_SUBJECT,
    WATCH_SUBJECT,
    ControlCommand,
    ControlState,
    HostHeartbeat,
    WatchRequest,
    command_subject,
    host_subject,
)
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.poses import MAX_FRAME_BYTES, PoseFrame, decode_frame, encode_frame, encode_pictures, robot_of_frame
from lwd.robots.protocol import BodyPoses
from lwd.types import Controller, Embodiment, Observation, Outcome, StepResult

from ... import driven_fleet, point_mass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Operator:
    """A console's side of the bus, with the newest answers of all robots."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus, self.name = bus, name
        self.states: dict[str, ControlState] = {}
        self.answers: dict[str, ControlState] = {}
        self.frames: list[PoseFrame] = []
        self.on_refused: Callable[[str], None] = lambda _: None
        self._requests = 0
        self._sequence = 0

    @classmethod
    async def connect(cls, url: str, name: str) -> "Operator":
        self = cls(await Bus.connect(url, name=name), name)

        async def state(message: ControlState) -> None:
            self.states[message.robot_id] = message
            self.answers[message.request_id] = message
            if message.refused:
                self.on_refused(message.refused)

        async def frame(data: bytes) -> None:
            self.frames.append(decode_frame(data))

        await self.bus.subscribe(f"{CONTROL_SUBJECT}.*", ControlState, state)
        await self.bus.subscribe_bytes(f"{POSES_SUBJECT}.*", frame)
        return self

    async def watch(self, *robots: str, hz: float = 20) -> None:
        await self.bus.publish(WATCH_SUBJECT, WatchRequest(console_id=self.name, robots=robots, hz=hz))

    async def ask(self, robot_id: str, verb: str, lease: int = 0, **rest) -> ControlState:
        if verb in ("resume", "release"):
            await self.look(robot_id)
        self._requests += 1
        request_id = f"{self.name}-{self._requests}"
        await self.tell(robot_id, verb, lease, request_id=request_id, **rest)
        await until(lambda: request_id in self.answers)
        return self.answers[request_id]

    async def look(self, robot_id: str) -> None:
        """See the robot as it is now: else it does not move."""
        self.states.pop(robot_id, None)
        await self.watch(robot_id)
        await until(lambda: robot_id in self.states)

    async def tell(self, robot_id: str, verb: str, lease: int = 0, **rest) -> None:
        seen = self.states.get(robot_id)
        content = {"seen_s": seen.robot_time_s if seen else 0.0, **rest}
        command = ControlCommand(
            robot_id=robot_id, verb=verb, operator_id=self.name, client_id=f"{self.name}-tab", lease=lease, **content
        )
        await self.bus.publish(command_subject(robot_id), command)

    async def drive(
        self, robot_id: str, lease: int, action: tuple[float, ...], seconds: float, *, verb: str = "drive"
    ) -> None:
        await self.look(robot_id)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._sequence += 1
            await self.tell(robot_id, verb, lease, sequence=self._sequence, action=action)
            await asyncio.sleep(0.03)


async def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@contextmanager
def running(fleet: driven_fleet.DrivenFleet):
    stop = threading.Event()
    thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_take_over_is_recorded_with_the_operator_and_keeps_what_came_before(tmp_path, server, monkeypatch):
    monkeypatch.setattr("lwd.operators.takeover.UNDO_S", 0.2)

    async def operate() -> None:
        ada, bob = await Operator.connect(server.url, "ada"), await Operator.connect(server.url, "bob")
        await ada.watch("robot-0")
        await until(lambda: fleet.steps_of("robot-0") > 20)
        taken = await ada.ask("robot-0", "take")
        assert (taken.phase, taken.operator_id, taken.refused) == ("paused", "ada", "")
        await asyncio.sleep(0.05)
        held_at = fleet.steps_of("robot-0")
        await asyncio.sleep(0.3)
        assert fleet.steps_of("robot-0") == held_at > 0
        refused = await bob.ask("robot-0", "take")
        assert refused.refused == "ada controls this robot: ask them to release it"
        await ada.ask("robot-0", "resume", taken.lease)
        started_s = time.monotonic()
        await ada.drive("robot-0", taken.lease, (0.25, 0.0), 0.5)
        # Then her network goes: the robot holds, in real time.
        await asyncio.sleep(0.35)
        moved = fleet.steps_of("robot-0") - held_at
        assert 8 <= moved <= 20 * (time.monotonic() - started_s)
        assert fleet.remotes["robot-0"].view().reason == "no command for 200 ms"
        await asyncio.sleep(0.2)
        assert fleet.steps_of("robot-0") == held_at + moved
        ended = await ada.ask("robot-0", "failure", taken.lease)
        assert ended.label == "failure"
        await until(lambda: fleet.network.status.episodes > 0)
        await ada.watch("robot-0")
        await until(lambda: ada.states["robot-0"].reason == "the episode has ended")
        assert ada.states["robot-0"].waits
        await asyncio.sleep(0.3)
        assert fleet.episode_of("robot-0") == ""  # under her hands it goes nowhere
        released = await ada.ask("robot-0", "release", taken.lease)
        assert (released.phase, released.lease) == ("autonomous", 0)
        steps["held"], steps["moved"] = held_at, moved
        await ada.bus.close()
        await bob.bus.close()

    steps: dict[str, int] = {}
    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        with running(fleet):
            asyncio.run(operate())
        entries = fleet.finish()
        entry = next(entry for entry in entries if entry.outcome is Outcome.FAILURE)
        episode = read_episode(fleet.store.get(entry.key))
    held, moved = steps["held"], steps["moved"]
    assert episode.steps == held + moved
    assert list(episode.controllers_T) == [Controller.POLICY] * held + [Controller.HUMAN] * moved
    np.testing.assert_allclose(episode.actions_TA[held:], np.tile([[0.25, 0.0]], (moved, 1)))
    assert (episode.info.operator_ids, episode.info.operator_steps) == (("ada",), (held,))
    assert (entry.human_steps, entry.interventions) == (moved, 1)


def test_a_discarded_episode_leaves_nothing_and_a_lost_operator_a_robot_that_holds(tmp_path, server, monkeypatch):
    monkeypatch.setattr("lwd.operators.takeover.UNDO_S", 0.2)

    async def operate() -> None:
        ada = await Operator.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 0)
        taken = await ada.ask("robot-0", "take")
        before = fleet.episode_of("robot-0")
        await ada.ask("robot-0", "discard", taken.lease)
        await until(lambda: fleet.episode_of("robot-0") == "")
        discarded.append(before)
        assert (await ada.ask("robot-0", "resume", taken.lease)).phase == "paused"
        await until(lambda: fleet.episode_of("robot-0") not in ("", before))
        assert (await ada.ask("robot-0", "resume", taken.lease)).phase == "human"
        await ada.drive("robot-0", taken.lease, (1.0, 0.0), 0.2)
        await ada.tell("robot-0", "abandon")
        await until(lambda: fleet.remotes["robot-0"].view().lease == 0)
        assert fleet.remotes["robot-0"].view().phase == "paused"
        bob = await Operator.connect(server.url, "bob")
        again = await bob.ask("robot-0", "take")
        assert again.lease > taken.lease
        assert (await ada.ask("robot-0", "resume", taken.lease)).refused.startswith(f"lease {taken.lease} has ended")
        await bob.ask("robot-0", "release", again.lease)
        await ada.bus.close()
        await bob.bus.close()

    discarded: list[str] = []
    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        with running(fleet):
            asyncio.run(operate())
        assert fleet.finish()
        spooled_or_stored = [item.key for item in fleet.store.list("episodes")]
    assert spooled_or_stored
    assert not any(discarded[0] in key for key in spooled_or_stored)


def test_poses_are_sent_only_while_somebody_watches_and_at_most_so_often(tmp_path, server):
    async def look() -> None:
        ada = await Operator.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 0)
        await asyncio.sleep(0.3)
        assert ada.frames == []
        await ada.watch("robot-0", hz=20)
        await until(lambda: len(ada.frames) >= 3)
        begun, started_s = len(ada.frames), time.monotonic()
        await asyncio.sleep(1.0)
        assert {frame.robot_id for frame in ada.frames} == {"robot-0"}
        assert len(ada.frames) - begun <= 20 * (time.monotonic() - started_s) + 1
        assert {"robot-0", "robot-1"} <= ada.states.keys()  # who is in control is told of all
        await until(lambda: not fleet.network.console.is_watched)  # three seconds later
        await asyncio.sleep(0.4)
        silent = len(ada.frames)
        await asyncio.sleep(0.4)
        assert len(ada.frames) == silent
        await ada.bus.close()

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, robots=2) as fleet, running(fleet):
        asyncio.run(look())


def test_pictures_that_cannot_be_sent_keep_nobody_from_knowing_who_is_in_control(tmp_path, server, caplog):
    async def look() -> None:
        ada = await Operator.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 0)
        console = fleet.network.console
        noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        for step in (1, 2):
            await ada.watch("robot-0")
            await until(lambda: console.is_watched)
            ada.states.clear()
            console.show_pictures("robot-0", step, {f"camera{number}": noise for number in range(12)})
            console.note_change("robot-1")
            await until(lambda: "robot-1" in ada.states)
            await until(lambda: "nobody sees robot robot-0" in caplog.text)
        await ada.bus.close()

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, robots=2) as fleet, running(fleet):
        asyncio.run(look())
    assert caplog.text.count("nobody sees robot robot-0") == 1


def test_a_pose_frame_survives_its_bytes_and_others_are_refused():
    poses = BodyPoses(poses_N7=np.arange(21, dtype=np.float32).reshape(3, 7), lamps=5)
    frame = PoseFrame(robot_id="arm.7", step=12, time_s=1.5, poses=poses)
    data = encode_frame(frame)
    read = decode_frame(data)
    assert (read.robot_id, read.step, read.time_s, read.poses.lamps) == ("arm.7", 12, 1.5, 5)
    np.testing.assert_array_equal(read.poses.poses_N7, poses.poses_N7)
    for wrong in (b"", b"\x01", b"\x02" + data[1:], data[:-1], data + b"\0", b"\x01\xff" + data[2:]):
        with pytest.raises(ServiceError):
            robot_of_frame(wrong)


def test_pictures_stand_side_by_side_and_fit_into_a_frame():
    rng = np.random.default_rng(0)
    left = np.full((480, 640, 3), (200, 30, 30), np.uint8)
    right = np.full((60, 60, 3), (30, 30, 200), np.uint8)
    data = encode_pictures("arm.7", 12, 1.5, {"front": left, "wrist": right})
    assert robot_of_frame(data) == "arm.7"
    assert data[0] == 2
    picture = Image.open(io.BytesIO(data[data.index(b"\xff\xd8") :]))
    assert picture.size == (320 + 240, 240)
    assert picture.getpixel((100, 100))[0] > 150 > 100 > picture.getpixel((100, 100))[2]
    assert picture.getpixel((500, 100))[2] > 150
    # Noise is the hardest to compress; what does not fit at all is said.
    noise = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    assert len(encode_pictures("arm.7", 1, 0.0, {"front": noise})) <= MAX_FRAME_BYTES
    with pytest.raises(ServiceError, match="too large"):
        encode_pictures("arm.7", 1, 0.0, {f"camera{number}": noise for number in range(12)})
    with pytest.raises(ServiceError, match="no JPEG"):
        robot_of_frame(data[: data.index(b"\xff\xd8")] + b"GIF89a")


class JointArm:
    """Two joints that follow their targets, at 20 Hz; the second is not measured. Its user may hold it, or turn it."""

    embodiment = Embodiment(
        name="point-mass", control_hz=20.0, state_tokens=point_mass.EMBODIMENT.state_tokens,
        action_low=(-1.0, -1.0), action_high=(1.0, 1.0),
    )  # fmt: skip
    driving = Driving(
        control_hz=20.0,
        axes=(
            drive_axis("elbow", -1, 1, absolute=True, measured=0),
            drive_axis("lift", -1, 1, absolute=True, minus="down", plus="up"),
        ),
    )

    def __init__(self) -> None:
        self.elbow = -0.5
        self.blocked = False
        self.looks = 0

    def reset(self, task, seed) -> Observation:
        return self._observation()

    def step(self, action) -> StepResult:
        if not self.blocked:
            self.elbow = float(action[0])
        return StepResult(observation=self._observation(), outcome=None, sub_step_scores=(0.0, 0.0))

    def hold(self) -> None: ...

    def observe(self) -> Observation:
        self.looks += 1
        return self._observation()

    def _observation(self) -> Observation:
        return Observation(state=np.array([self.elbow, 0, 0, 0, 0, 0], np.float32))

    def privileged(self):
        return {}

    def close(self) -> None: ...


def test_an_arm_is_jogged_from_where_it_is_and_what_is_recorded_is_where_it_was_sent(tmp_path, server, monkeypatch):
    monkeypatch.setattr("lwd.operators.takeover.UNDO_S", 0.2)
    arm = JointArm()

    async def operate() -> None:
        ada = await Operator.connect(server.url, "ada")
        beats: list[HostHeartbeat] = []

        async def beat(message: HostHeartbeat) -> None:
            beats.append(message)

        await ada.bus.subscribe(host_subject("host"), HostHeartbeat, beat)
        await ada.watch("robot-0")
        await until(lambda: fleet.steps_of("robot-0") > 5 and any(message.robots for message in beats))
        assert [(axis.label, axis.absolute, axis.plus) for axis in beats[-1].robots[0].axes] == [
            ("elbow", True, None),
            ("lift", True, "up"),
        ]
        taken = await ada.ask("robot-0", "take")
        await asyncio.sleep(0.1)
        steps.append(fleet.steps_of("robot-0"))
        # Held, it is turned by hand: that is where it begins.
        arm.elbow, looks, started_s = 0.25, arm.looks, time.monotonic()
        await asyncio.sleep(0.4)
        assert 3 <= arm.looks - looks <= 20 * (time.monotonic() - started_s) + 1
        await ada.ask("robot-0", "resume", taken.lease)
        await ada.drive("robot-0", taken.lease, (0.4, 0.0), 0.4, verb="jog")
        await until(lambda: fleet.remotes["robot-0"].view().reason == "no command for 200 ms")
        steps.append(fleet.steps_of("robot-0"))
        arm.blocked = True
        await ada.ask("robot-0", "resume", taken.lease)
        await ada.drive("robot-0", taken.lease, (-1.0, 1.0), 1.0, verb="jog")
        await ada.drive("robot-0", taken.lease, (0.0, 0.0), 0.3, verb="jog")
        steps.append(fleet.steps_of("robot-0"))
        assert fleet.remotes["robot-0"].view().phase == "human"
        for wrong in ((0.5,), (1.5, 0.0)):
            refused = await ada.ask("robot-0", "jog", taken.lease, sequence=10_000, action=wrong)
            assert refused.refused.endswith("send 2 numbers in [-1, 1]")
            assert refused.phase == "paused"
            await ada.ask("robot-0", "resume", taken.lease)
        await ada.ask("robot-0", "failure", taken.lease)
        await until(lambda: fleet.network.status.episodes > 0)
        await ada.bus.close()

    steps: list[int] = []
    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=lambda: arm) as fleet:
        with running(fleet):
            asyncio.run(operate())
        entries = fleet.finish()
        entry = next(entry for entry in entries if entry.outcome is Outcome.FAILURE)
        episode = read_episode(fleet.store.get(entry.key))
    taken, paused, blocked = steps
    # Where it was held there is a gap: it begins anew at what is seen then.
    made = episode.controllers_T != Controller.NOBODY
    gaps = np.flatnonzero(~made)
    assert gaps[0] == taken
    assert episode.states_TS[taken, 0] != pytest.approx(0.25)  # what the policy's last action led to
    episode = replace(
        episode,
        controllers_T=episode.controllers_T[made],
        actions_TA=episode.actions_TA[made],
        states_TS=episode.states_TS[np.append(made, True)],
    )
    assert list(episode.controllers_T) == [Controller.POLICY] * taken + [Controller.HUMAN] * (blocked - taken)
    per_step = 0.5 / 20  # a quarter of the range per second
    first, number = episode.actions_TA[taken:paused], np.arange(1, paused - taken + 1)
    assert len(first) >= 5
    np.testing.assert_allclose(first[:, 0], 0.25 + 0.4 * per_step * number, atol=1e-5)
    np.testing.assert_allclose(first[:, 1], episode.actions_TA[taken - 1, 1], atol=1e-6)
    assert episode.states_TS[taken, 0] == pytest.approx(0.25)  # as seen before the action, not before the hold
    stuck, held_at = episode.actions_TA[paused:blocked], first[-1, 0]
    assert stuck[0, 0] == pytest.approx(held_at - per_step, abs=1e-5)
    np.testing.assert_allclose(stuck[-5:, 0], held_at - 0.5 * LEAD_S, atol=1e-5)
    np.testing.assert_allclose(np.diff(stuck[:, 1]), per_step, atol=1e-5)


def test_a_robot_that_does_not_answer_while_it_is_held_has_a_fault(tmp_path, server):
    arm = JointArm()

    async def operate() -> None:
        ada = await Operator.connect(server.url, "ada")
        await until(lambda: fleet.steps_of("robot-0") > 5)
        await ada.watch("robot-0")
        await ada.ask("robot-0", "take")

        def lost() -> Observation:
            raise RobotFault("no status packet")

        arm.observe = lost
        await until(lambda: "robot-0" in ada.states and ada.states["robot-0"].fault == "no status packet")
        await ada.bus.close()

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=lambda: arm) as fleet, running(fleet):
        asyncio.run(operate())
