"""Robot hosts: whole episodes, batched inference, policies that change between episodes only, orderly ends."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lwd.data.episode_file import read_episode
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import Created, DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError, RobotFault, StoreError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.edge import EdgeSettings, FleetRobot, RobotHost
from lwd.fleet.host_network import HostNetwork
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.messages import LEARNER_SUBJECT, LearnerHeartbeat
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool, SpoolLimits
from lwd.types import Command, Controller, Intent, Outcome

from ... import point_mass

LIMITS = EpisodeLimits(embodiment=point_mass.EMBODIMENT)


class SwitchedStore(DirectoryStore):
    """A store whose network can be cut."""

    reachable = True

    def create(self, key: str, data: bytes) -> Created:
        if not self.reachable:
            raise StoreError("cannot reach the store")
        return super().create(key, data)


class Bench:
    """A host with a real network thread over a real store and bus; commits happen when a test asks for them."""

    def __init__(
        self, run: Path, server: NatsServer, robots: int, load=point_mass.load_policy, budget_bytes: int = 2**30
    ) -> None:
        self.store = SwitchedStore(run / "store")
        self.server = server
        self.publisher = PolicyPublisher(self.store)
        self.spool = Spool(run / "spool", SpoolLimits(budget_bytes=budget_bytes, min_free_bytes=0))
        self.units = []
        for number in range(robots):
            start = self.spool.claim(f"robot-{number}")
            robot = point_mass.PointMassRobot()
            self.units.append(FleetRobot(robot_id=f"robot-{number}", robot=robot, world="nominal", start=start))
        self.network = HostNetwork(
            host_id="host",
            bus=lambda: BusConfig(urls=(server.url,)),
            store=self.store,
            shipper=Shipper(self.store, self.spool, {unit.robot_id for unit in self.units}),
            policies=PolicyFollower(self.store, load, max_loaded=3),
            metrics=MetricsFile(run, "host"),
            heartbeat_s=0.1,
        )

    def host(self, **settings) -> RobotHost:
        return RobotHost(self.units, EdgeSettings(tasks=point_mass.TASKS, **settings), self.network)

    def publish(self, gain: float) -> int:
        return self.publisher.publish(point_mass.policy_bytes(gain), update=0, snapshot=0).version

    def commit(self) -> None:
        coordinator = Coordinator(self.store, LIMITS)
        coordinator.process(coordinator.unprocessed())

    def entries(self):
        reader = LogReader(self.store)
        reader.poll()
        return [item.entry for item in reader.snapshot.episodes.values()]

    def finish(self):
        """Bring everything into the log and return it."""
        assert self.network.drain(10.0, committed=False)
        spooled = {episode.key for episode in self.spool.pending()}
        wait_until(lambda: spooled <= {item.key for item in self.store.list("episodes")})
        self.commit()
        return self.entries()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def bench(tmp_path, server):
    with make_bench(tmp_path, server) as bench:
        yield bench


@contextmanager
def make_bench(run: Path, server: NatsServer, robots: int = 4, **options) -> Iterator[Bench]:
    bench = Bench(run, server, robots, **options)
    try:
        yield bench
    finally:
        bench.network.close()
        bench.spool.close()


def wait_until(condition, timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def never() -> bool:
    return False


def test_episodes_of_all_tasks_arrive_whole_and_the_spool_empties(bench):
    bench.publish(2.0)
    host = bench.host(max_episodes=12)
    host.run(never)
    entries = bench.finish()
    assert len(entries) == 12
    assert {entry.task for entry in entries} == {"near", "far"}
    assert {entry.instruction for entry in entries} == set(point_mass.TASKS[0].instructions)
    assert {entry.outcome for entry in entries} == {Outcome.SUCCESS}
    assert sum(entry.steps for entry in entries) == host.env_steps
    wait_until(lambda: bench.network.waiting == 0)
    assert bench.spool.pending() == []


def test_a_full_spool_stops_new_episodes_until_commits_make_room(tmp_path, server, caplog):
    with make_bench(tmp_path, server, robots=2, budget_bytes=60_000) as bench:
        bench.publish(2.0)
        stop = False
        thread = threading.Thread(target=bench.host().run, args=(lambda: stop,))
        thread.start()
        try:
            wait_until(lambda: bench.network.status.state == "spool full")
            assert "raise the budget" in bench.network.status.shortage
            assert "no new episodes: the spool" in caplog.text

            def stands() -> bool:
                """Nothing is deleted, nothing begins. The host may be "spool full" before all is spooled."""
                spooled = len(bench.spool.pending())
                time.sleep(0.5)
                return spooled > 1 and len(bench.spool.pending()) == spooled and not bench.network.status.robots

            wait_until(stands)
            assert bench.network.status.state == "spool full"
            spooled = len(bench.spool.pending())
            assert bench.spool.used_bytes <= 60_000
            bench.commit()
            # It begins again; the state may be "spool full" once more before anybody sees another one.
            wait_until(lambda: bench.network.status.episodes > spooled)
        finally:
            stop = True
            thread.join()
        assert len(bench.finish()) >= bench.network.status.episodes


def test_after_an_outage_each_robots_episodes_come_in_order_also_from_a_predecessor(tmp_path, server):
    with make_bench(tmp_path, server, robots=3) as bench:
        bench.publish(2.0)
        bench.store.reachable = False
        bench.host(max_episodes=30).run(never)
        assert bench.network.drain(10.0, committed=False)
        assert len(bench.spool.pending()) == 30
        assert list(bench.store.list("episodes")) == []
    # The host died; its successor goes on with the same robots, and the network comes back later.
    with make_bench(tmp_path, server, robots=3) as bench:
        bench.store.reachable = False
        bench.host(max_episodes=9).run(never)
        assert bench.network.drain(10.0, committed=False)
        bench.store.reachable = True
        wait_until(lambda: len(list(bench.store.list("episodes"))) == 39)
        times = {item.key: item.modified_s for item in bench.store.list("episodes")}
        for robot in range(3):
            keys = [key for key in times if key.startswith(f"episodes/robot-{robot}/")]
            assert keys == sorted(keys, key=lambda key: times[key])
            assert {key.split("/")[2].split("-")[0] for key in keys} == {"000000", "000001"}
        bench.commit()
        assert len(bench.entries()) == 39
        wait_until(lambda: bench.spool.pending() == [])


def test_inference_is_batched_over_the_robots_of_a_host(bench):
    bench.publish(2.0)
    host = bench.host(max_episodes=16)
    host.run(never)
    batches = bench.network.policies.newest.policy.batches
    # 4 robots, chunks of 5: without batching there would be a call per chunk.
    assert np.mean(batches) > 3
    assert len(batches) < host.env_steps / 5 / 2


def test_a_robot_keeps_its_policy_until_its_episode_ends(bench):
    bench.publish(0.0)
    host = bench.host(max_episodes=8)
    published = threading.Event()

    def publish_midway() -> bool:
        if host.env_steps > 20 and not published.is_set():
            published.set()
            bench.publish(2.0)
            bench.network._thread.loop.call_soon_threadsafe(bench.network._wake_policy.set)
            wait_until(lambda: bench.network.policies.version == 1)
        return False

    host.run(publish_midway)
    entries = bench.finish()
    by_version = {version: [e for e in entries if e.policy_version == version] for version in (0, 1)}
    # Gain 0 stands still until the time limit; had the policy changed within the episode, it would succeed.
    assert {entry.outcome for entry in by_version[0]} == {Outcome.TIME_LIMIT}
    assert {entry.outcome for entry in by_version[1]} == {Outcome.SUCCESS}
    assert len(by_version[0]) == 4
    assert len(by_version[1]) == 4


def test_stopping_truncates_what_runs_and_loses_nothing(bench):
    bench.publish(0.0)
    host = bench.host()
    host.run(lambda: host.env_steps >= 40)
    entries = bench.finish()
    assert [entry.outcome for entry in entries] == [Outcome.TRUNCATED] * 4
    assert sum(entry.steps for entry in entries) == host.env_steps


def test_robots_wait_while_the_learner_is_behind(bench):
    bench.publish(2.0)
    stop = threading.Event()
    host = bench.host()
    thread = threading.Thread(target=host.run, args=(stop.is_set,))

    async def allow(steps: int) -> None:
        bus = await Bus.connect(bench.server.url, name="learner")
        beat = LearnerHeartbeat(
            time_s=1.0,
            stage="online",
            update=0,
            snapshot=0,
            policy_version=0,
            env_steps=0,
            env_steps_allowed=steps,
        )
        await bus.publish(LEARNER_SUBJECT, beat)
        await bus.close()

    wait_until(lambda: bench.network._bus is not None)
    asyncio.run(allow(300))
    wait_until(lambda: bench.network._learner is not None)
    thread.start()
    wait_until(lambda: bench.network.status.state == "waiting for the learner")
    waited_at = host.env_steps
    # Running episodes were finished, so the limit is passed by less than one episode per robot.
    assert 300 <= waited_at < 300 + 4 * 120
    # Committing does not change how many steps there are.
    bench.finish()
    time.sleep(0.5)
    assert host.env_steps == waited_at
    asyncio.run(allow(waited_at + 200))
    wait_until(lambda: host.env_steps > waited_at)
    stop.set()
    thread.join()


class TakesOverAtStepThree:
    def begin(self, view, seed) -> None:
        pass

    def poll(self, view) -> Command:
        if 3 <= view.step < 6:
            return Command(intent=Intent.TAKE_OVER, action=np.zeros(2, np.float32))
        return Command(intent=Intent.OBSERVE)


def test_take_overs_are_recorded_and_the_policy_replans_afterwards(tmp_path, server):
    with make_bench(tmp_path, server, robots=2) as bench:
        bench.publish(2.0)
        unit = bench.units[0]
        bench.units[0] = FleetRobot(
            robot_id=unit.robot_id, robot=unit.robot, world="nominal", operator=TakesOverAtStepThree()
        )
        bench.host(max_episodes=4).run(never)
        helped = [entry for entry in bench.finish() if entry.robot_id == "robot-0"]
        assert helped
        assert {(entry.human_steps, entry.interventions) for entry in helped} == {(3, 1)}


class BreaksSometimes(point_mass.SteeringPolicy):
    def act(self, observations, instructions, *, generator):
        chunks = super().act(observations, instructions, generator=generator)
        if len(self.batches) == 3:
            chunks[0, 2] = np.nan
        return chunks


def test_a_non_finite_action_holds_one_robot_and_the_rest_go_on(tmp_path, server):
    def load(data: bytes):
        return BreaksSometimes(point_mass.load_policy(data).gain)

    with make_bench(tmp_path, server, load=load) as bench:
        bench.publish(2.0)
        bench.host(max_episodes=8).run(never)
        outcomes = [entry.outcome for entry in bench.finish()]
    assert outcomes.count(Outcome.TRUNCATED) == 1
    assert outcomes.count(Outcome.SUCCESS) == 7


class Unreachable(point_mass.PointMassRobot):
    def reset(self, task, seed):
        raise RobotFault("arm 3 does not answer")


def test_a_robot_that_fails_again_and_again_ends_the_host(tmp_path, server, monkeypatch):
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.01)
    with make_bench(tmp_path, server, robots=1) as bench:
        bench.publish(2.0)
        bench.units[0] = FleetRobot(robot_id="robot-0", robot=Unreachable(), world="nominal")
        with pytest.raises(RobotFault, match="robot-0 failed 5 times in a row: arm 3 does not answer"):
            bench.host().run(never)


def test_a_restarted_host_ships_what_it_left_and_repeats_no_episode(tmp_path, server):
    for _ in range(2):
        with make_bench(tmp_path, server, robots=1) as bench:
            bench.publish(2.0)
            bench.host(max_episodes=3).run(never)
            assert bench.network.drain(10.0, committed=False)
    with make_bench(tmp_path, server, robots=1) as bench:
        entries = bench.finish()
    assert len(entries) == 6
    starts = {read_episode(bench.store.get(entry.key)).states_TS[0].tobytes() for entry in entries}
    assert len(starts) == 6


def test_a_refused_connection_is_made_again(bench):
    wait_until(lambda: bench.network._bus is not None)
    first = bench.network._bus
    bench.network._thread.call(first._client.close())
    assert first.closed
    wait_until(lambda: bench.network._bus is not first and bench.network._bus.connected)
    bench.publish(2.0)
    bench.host(max_episodes=2).run(never)
    assert len(bench.finish()) == 2


def test_every_step_says_who_acted(bench):
    bench.publish(2.0)
    bench.host(max_episodes=1).run(never)
    (entry,) = bench.finish()
    episode = read_episode(bench.store.get(entry.key))
    assert set(episode.controllers_T) == {Controller.POLICY}
    assert episode.info.policy_version == 0
    np.testing.assert_allclose(episode.states_TS[0, 2:4], 0.0)


def test_the_process_entry_closes_its_robots_and_waits_for_commits(tmp_path, server):
    store = DirectoryStore(tmp_path / "store")
    PolicyPublisher(store).publish(point_mass.policy_bytes(2.0), update=0, snapshot=0)
    robots = []

    def make(spec: RobotSpec):
        robots.append(point_mass.PointMassRobot())
        return robots[-1], None

    stop = threading.Event()

    def coordinate() -> None:
        coordinator = Coordinator(store, LIMITS)
        while not stop.is_set():
            coordinator.process(coordinator.unprocessed())
            time.sleep(0.05)

    thread = threading.Thread(target=coordinate)
    thread.start()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run_robot_host(
            RobotHostConfig(
                run=tmp_path,
                host_id="host",
                robots=(RobotSpec(robot_id="a"), RobotSpec(robot_id="b")),
                bus=BusConfig(urls=(server.url,)),
                max_env_steps=100,
            ),
            make=make,
            tasks=point_mass.TASKS,
            load=point_mass.load_policy,
        )
    finally:
        stop.set()
        thread.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert len(robots) == 2
    assert all(robot.closed for robot in robots)
    assert list((tmp_path / "spool").glob("*/*.arrow")) == []
    reader = LogReader(store)
    reader.poll()
    assert reader.snapshot.steps >= 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robots": ()}, "at least one"),
        ({"robots": (RobotSpec(robot_id="a"), RobotSpec(robot_id="a"))}, "each with its own id"),
        ({"max_policies": 0}, "max_policies is 0"),
        ({"task_weights": {"nowhere": 1.0}}, "task_weights\\['nowhere'\\] is 1.0"),
        ({"tasks": ("open_drawer",), "task_weights": {"open_drawer": 0.0}}, "add up to 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        RobotHostConfig(**{"run": tmp_path, "host_id": "h", "robots": (RobotSpec(robot_id="a"),), **changes})


class ThinkingPolicy(point_mass.SteeringPolicy):
    """Takes a while to think, as large policies do; notes in which thread."""

    thinking_s = 0.02

    def __init__(self, gain: float) -> None:
        super().__init__(gain)
        self.threads: list[str] = []

    def act(self, observations, instructions, *, generator):
        self.threads.append(threading.current_thread().name)
        time.sleep(self.thinking_s)
        return super().act(observations, instructions, generator=generator)


def test_a_host_in_real_time_predicts_the_next_chunk_while_it_executes_this_one(tmp_path, server):
    policies: list[ThinkingPolicy] = []

    def load(data: bytes) -> ThinkingPolicy:
        policies.append(ThinkingPolicy(point_mass.load_policy(data).gain))
        return policies[-1]

    with make_bench(tmp_path, server, robots=1, load=load) as bench:
        (unit,) = bench.units
        plain_step = unit.robot.step

        def step(action):
            time.sleep(0.01)
            return plain_step(action)

        unit.robot.step = step
        bench.publish(3.0)
        bench.host(predict_ahead=4, max_episodes=2).run(lambda: False)
        entries = bench.finish()
    assert len(entries) == 2
    (policy,) = policies
    ahead = [name for name in policy.threads if name.startswith("chunk-ahead")]
    # The first chunk of an episode must be waited for. How few others are is benchmarks/control_rate.py's to measure.
    assert len(policy.threads) - len(ahead) >= 2
    assert len(ahead) > 5


def test_only_a_host_of_one_robot_predicts_ahead(bench):
    with pytest.raises(ConfigError, match="predict_ahead is for hosts of one robot, this one has 4"):
        bench.host(predict_ahead=3)
