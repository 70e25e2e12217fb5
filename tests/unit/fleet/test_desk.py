"""Operators at desks of their own, over a real bus: the queue, the lease, what is recorded, who holds a robot."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lwd.data.episode_file import read_episode
from lwd.errors import ConfigError, ControlRefused, RobotFault, ServiceError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.desk import Desk
from lwd.fleet.messages import ControlState, OperatorView
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.shift import attend, help_the_fleet, look_after
from lwd.fleet.views import robot_view, scene_of, view_message
from lwd.operators.protocol import OBSERVE, Command, Intent, RobotView
from lwd.operators.remote import RemoteOperator
from lwd.operators.scripted import ScriptedHelper
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import make_robot, task_named
from lwd.robots.sim.oracle import SceneExpert
from lwd.types import Controller, FloatArray, Outcome, Source

from ... import driven_fleet


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Steerer:
    """Knows where the goal is."""

    def __init__(self, sign: float = 1.0) -> None:
        self._sign = sign

    def act(self, view: RobotView) -> FloatArray:
        position, velocity = view.observation.state[:2], view.observation.state[2:4]
        wanted = self._sign * np.clip(view.privileged["goal"] - position, -1, 1) - 0.3 * velocity
        return np.clip(wanted, -1, 1).astype(np.float32)


class Stick:
    """A device in somebody's hand."""

    def __init__(self) -> None:
        self.wish = OBSERVE
        self.fault = ""
        self.polled = 0

    def begin(self, view: RobotView, seed: int) -> None: ...

    def poll(self, view: RobotView) -> Command:
        self.polled += 1
        if self.fault:
            raise RobotFault(self.fault)
        return self.wish


PUSH = Command(intent=Intent.TAKE_OVER, action=np.array([0.25, 0.0], np.float32))


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def work(fleet: driven_fleet.DrivenFleet, shift: Coroutine[Any, Any, None]) -> None:
    """Let the robots run until the shift is over."""
    stop = threading.Event()
    thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
    thread.start()
    try:
        asyncio.run(shift)
    finally:
        stop.set()
        thread.join()


def open_desk(server: NatsServer, name: str) -> contextlib.AbstractAsyncContextManager[Desk]:
    return Desk.open(BusConfig(urls=(server.url,)), name)


def test_a_request_from_before_the_help_is_not_helped_again(server):
    """A robot notices its progress a moment after the one who drove it, and may still be heard asking."""

    async def look() -> None:
        async with open_desk(server, "ada") as ada:
            asked = ControlState(robot_id="robot", host_id="host", phase="autonomous", lease=0, help_reason="stuck")
            for help_for_s, expected in ((5.0, []), (0.0, ["robot"])):
                ada.note_helped("robot")
                await asyncio.sleep(0.01)
                await ada._on_control(asked.model_copy(update={"help_for_s": help_for_s}))
                assert ada.asking() == expected

    asyncio.run(look())


def test_a_person_at_a_desk_does_not_hand_back_a_robot_that_has_failed(tmp_path, server):
    """A real arm would go home, and nobody has looked at it."""

    class Arm(driven_fleet.PosedPointMass):
        broken = False

        def observe(self):
            return self._observe()

        def step(self, action):
            if self.broken:
                raise RobotFault("joint 3 does not answer")
            return super().step(action)

    arm = Arm()

    async def shift() -> None:
        stick = Stick()
        stick.wish = PUSH
        async with open_desk(server, "ada") as ada:
            ada.look_at("robot-0")
            await until(lambda: fleet.steps_of("robot-0") > 0)
            attending = asyncio.create_task(attend(ada, "robot-0", stick, asyncio.Event(), may_resume=False))
            await until(lambda: fleet.remotes["robot-0"].drives)
            arm.broken = True
            with pytest.raises(ServiceError, match="robot robot-0 has failed: joint 3 does not answer"):
                await attending
            arm.broken = False
            await until(lambda: fleet.remotes["robot-0"].view().lease == 0)
            await asyncio.sleep(0.5)
            assert not fleet.remotes["robot-0"].may_begin
            assert fleet.episode_of("robot-0") == ""
            lease = (await ada.ask("robot-0", "take")).lease
            await ada.ask("robot-0", "release", lease)
            await until(lambda: fleet.episode_of("robot-0") != "")

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, make=lambda: arm) as fleet:
        work(fleet, shift())


def test_a_name_that_cannot_be_recorded_is_refused(server):
    async def sit() -> None:
        async with open_desk(server, "Ada L."):
            raise AssertionError

    with pytest.raises(ConfigError, match="name is 'Ada L\\.'"):
        asyncio.run(sit())


def test_helpers_share_the_queue_and_one_that_is_refused_goes_on_to_the_next(tmp_path, server, caplog):
    async def shift() -> None:
        stop = asyncio.Event()
        async with open_desk(server, "ada") as ada, open_desk(server, "bob") as bob:
            await until(lambda: len(bob.asking()) == 2)
            _, asked = bob._states["robot-0"]
            taken = await ada.ask("robot-0", "take")
            await until(lambda: bob.asking() == ["robot-1"])
            refused = "robot robot-0: ada controls this robot: ask them to release it"

            def has_been_refused_and_gone_on() -> bool:
                if refused not in caplog.messages:
                    # Bob's desk has not heard of it yet, and thinks that this robot has waited for longest.
                    bob._states["robot-0"] = (time.monotonic(), asked.model_copy(update={"help_for_s": 1e6}))
                return {refused, "robot robot-1: handed back by bob"} <= set(caplog.messages)

            with caplog.at_level(logging.INFO, "lwd.fleet.shift"):
                helping = asyncio.create_task(help_the_fleet(bob, ScriptedHelper(Steerer()), stop))
                await until(has_been_refused_and_gone_on)
            assert fleet.remotes["robot-0"].view().operator_id == "ada"
            await ada.ask("robot-0", "release", taken.lease)
            also = asyncio.create_task(help_the_fleet(ada, ScriptedHelper(Steerer()), stop))
            await until(lambda: fleet.network.status.episodes >= 2)
            stop.set()
            await asyncio.gather(helping, also)
            assert {view.lease for view in (remote.view() for remote in fleet.remotes.values())} == {0}
            assert {view.phase for view in (remote.view() for remote in fleet.remotes.values())} == {"autonomous"}

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, robots=2) as fleet:
        work(fleet, shift())
        entries = [entry for entry in fleet.finish() if entry.outcome is Outcome.SUCCESS]
        episodes = [read_episode(fleet.store.get(entry.key)) for entry in entries]
    assert {entry.robot_id for entry in entries} <= {"robot-0", "robot-1"}
    assert len(episodes) >= 2
    for episode in episodes:
        assert set(episode.info.operator_ids) <= {"ada", "bob"}
        # Its policy began, and each time that it was helped is named; none of it reaches into the next episode.
        helped = np.flatnonzero(np.diff(episode.controllers_T.astype(int)) == 1)
        assert len(helped) == len(episode.info.operator_ids) >= 1
        assert list(helped + 1) == list(episode.info.operator_steps)
        assert episode.controllers_T[0] == Controller.POLICY


def test_a_helper_that_gets_nowhere_labels_a_failure(tmp_path, server, monkeypatch):
    monkeypatch.setattr("lwd.operators.takeover.UNDO_S", 0.2)

    async def shift() -> None:
        stop = asyncio.Event()
        async with open_desk(server, "ada") as ada:
            helper = ScriptedHelper(Steerer(sign=-1.0), give_up_after=8)
            helping = asyncio.create_task(help_the_fleet(ada, helper, stop))
            await until(lambda: fleet.network.status.episodes >= 1)
            await until(lambda: fleet.remotes["robot-0"].view().phase == "autonomous")
            stop.set()
            await helping

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        work(fleet, shift())
        entry = next(entry for entry in fleet.finish() if entry.outcome is not Outcome.TRUNCATED)
    assert entry.outcome is Outcome.FAILURE
    assert 1 <= entry.human_steps <= 16


async def breaks_and_is_mended(stick: Stick, remote, caplog) -> None:
    """The robot holds, and the device may take it again once it is plugged in."""
    stick.fault = "the cable is out"
    await until(lambda: remote.view().lease == 0)
    assert (remote.view().phase, remote.view().reason) == ("paused", "its operator is gone: take over and release")
    await until(lambda: "the cable is out; the device is connected anew" in caplog.text)
    stick.fault = ""
    await until(lambda: remote.view().phase == "human")
    stick.wish = OBSERVE
    await until(lambda: remote.view().phase == "autonomous")


def test_a_device_takes_drives_and_hands_back_and_is_told_who_has_the_robot(tmp_path, server, caplog):
    async def shift() -> None:
        stop, stick, remote = asyncio.Event(), Stick(), fleet.remotes["robot-0"]
        async with open_desk(server, "ada") as ada, open_desk(server, "bob") as bob:
            with caplog.at_level(logging.INFO, "lwd.fleet.shift"):
                looking = asyncio.create_task(look_after(ada, "robot-0", lambda _: contextlib.nullcontext(stick), stop))
                await until(lambda: stick.polled > 3)
                assert remote.view().lease == 0
                stick.wish = PUSH
                await until(lambda: remote.view().phase == "human")
                before = fleet.steps_of("robot-0")
                await until(lambda: fleet.steps_of("robot-0") >= before + 5)
                with pytest.raises(ControlRefused, match="ada controls this robot"):
                    await attend(bob, "robot-0", stick, stop)
                stick.wish = OBSERVE
                await until(lambda: (remote.view().phase, remote.view().lease) == ("autonomous", 0))
                # Somebody else has it: the device may not, as long as it moves, and says so once.
                taken = await bob.ask("robot-0", "take")
                stick.wish = PUSH
                refused = "robot robot-0: bob controls this robot: ask them to release it (let go of the device, then"
                await until(lambda: any(line.startswith(refused) for line in caplog.messages))
                await bob.ask("robot-0", "release", taken.lease)
                polled = stick.polled
                await until(lambda: stick.polled > polled + 5)
                assert remote.view().lease == 0
                stick.wish = OBSERVE
                polled = stick.polled
                await until(lambda: stick.polled > polled + 1)
                stick.wish = PUSH
                await until(lambda: remote.view().phase == "human")
                # The robot held for a while, whyever: it does not start again under a hand that still moves.
                await bob.ask("robot-0", "pause", remote.view().lease)
                await until(lambda: any("robot robot-0 holds: paused" in line for line in caplog.messages))
                polled = stick.polled
                await until(lambda: stick.polled > polled + 5)
                assert remote.view().phase == "paused"
                stick.wish = OBSERVE
                await until(lambda: remote.view().phase == "autonomous")
                stick.wish = PUSH
                await until(lambda: remote.view().phase == "human")
                await breaks_and_is_mended(stick, remote, caplog)
                stop.set()
                await looking

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        work(fleet, shift())
        episode = read_episode(fleet.store.get(fleet.finish()[0].key))
    human_T = episode.controllers_T == Controller.HUMAN
    np.testing.assert_allclose(episode.actions_TA[human_T], np.tile([[0.25, 0.0]], (int(human_T.sum()), 1)))
    assert set(episode.info.operator_ids) == {"ada"}


def test_an_operator_that_dies_leaves_a_robot_that_holds_and_a_robot_that_is_not_there_is_named(
    tmp_path, server, monkeypatch
):
    monkeypatch.setattr("lwd.fleet.shift._JOIN_WITHIN_S", 0.5)

    async def shift() -> None:
        stop, stick, remote = asyncio.Event(), Stick(), fleet.remotes["robot-0"]
        stick.wish = PUSH
        async with open_desk(server, "ada") as ada:
            with pytest.raises(ServiceError, match="robot nobody shows nothing"):
                await look_after(ada, "nobody", lambda _: contextlib.nullcontext(stick), stop)
            driving = asyncio.create_task(attend(ada, "robot-0", stick, stop))
            await until(lambda: remote.view().phase == "human")
            driving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await driving
            await until(lambda: remote.view().lease == 0)
            assert remote.view().phase == "paused"

    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0) as fleet:
        work(fleet, shift())


def test_an_expert_does_the_same_from_what_is_sent_as_beside_the_simulator():
    robot, expert = make_robot(), SceneExpert()
    task = task_named("put_in_drawer")
    session = EpisodeSession(
        robot, task, task.instructions[0], seed=5, robot_id="r", source=Source.FLEET, policy_version=1, world="nominal"
    )
    remote = RemoteOperator(robot.driving)
    for _ in range(60):
        scene = scene_of(session, robot.embodiment)
        sent = OperatorView.model_validate_json(view_message(scene, remote.view()).model_dump_json())
        seen = robot_view(sent)
        action = expert.act(session.view)
        np.testing.assert_array_equal(expert.act(seen), action)
        np.testing.assert_array_equal(seen.observation.state, session.view.observation.state)
        assert seen.privileged.keys() == session.view.privileged.keys()
        session.load_chunk(action[None])
        session.step()
    broken = replace(scene, view=replace(scene.view, privileged={"speed": float("nan")}))
    with pytest.raises(ValueError, match="finite"):
        view_message(broken, remote.view())
    robot.close()
