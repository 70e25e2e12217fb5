"""How much of the bare simulator's speed is left when its steps become a fleet's episodes."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lwd.data.episode_file import read_episode
from lwd.data.policies import PolicyPublisher
from lwd.data.store import ObjectStore, open_store
from lwd.errors import ServiceError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.edge import EdgeSettings, FleetRobot, RobotHost
from lwd.fleet.host_network import HostNetwork
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.release import PolicyFollower
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool
from lwd.models.checkpoint import load_policy, policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.bench_result import BenchEntry
from lwd.robots.protocol import Robot
from lwd.robots.sim import TASKS, make_robot
from lwd.types import Episode

_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class FleetSpeed:
    """Rates of one thread, in simulated control steps per second; each the best round's."""

    robots: int
    steps: int
    """Steps of one round."""
    host_steps_per_s: float
    """Of a robot host: batched policy, sessions, recording; its network thread spools and ships meanwhile."""
    bare_steps_per_s: float
    """Of the simulators alone, replaying the very episodes: same starts, same actions."""

    @property
    def share(self) -> float:
        return self.host_steps_per_s / self.bare_steps_per_s


def measure_fleet(*, robots: int = 16, episodes: int = 64, rounds: int = 2) -> FleetSpeed:
    """Run a robot host with its real network, store and message bus, then replay what it recorded.

    Args:
        robots: of the one host; a fleet on two cores packs its 16 into one.
        episodes: of each round; many, because in a fleet no robot is idle, and at the end of a round some are.
        rounds: host and bare simulator take turns, so that a change of the machine's speed meets both.
    Raises:
        ServiceError: if the message bus does not start, or an episode does not reach the store.
    """
    with tempfile.TemporaryDirectory(prefix="lwd-bench-") as directory:
        run = Path(directory)
        pool: list[Robot] = [make_robot() for _ in range(robots)]
        try:
            with NatsServer(run / "nats") as server:
                return _measure(run, server, pool, episodes, rounds)
        finally:
            for robot in pool:
                robot.close()


def bench_entries(speed: FleetSpeed) -> dict[str, BenchEntry]:
    """Return what goes into the results file."""
    return {
        "fleet/env-steps": BenchEntry(
            value=speed.host_steps_per_s,
            unit="env steps/s",
            baseline=f"the bare simulator on the same {speed.steps} steps, one thread: {speed.bare_steps_per_s:.0f}/s",
            ratio=speed.share,
        )
    }


def _measure(run: Path, server: NatsServer, pool: list[Robot], episodes: int, rounds: int) -> FleetSpeed:
    store = open_store(run / "store")
    PolicyPublisher(store).publish(random_policy(), update=0, snapshot=0)
    units = [FleetRobot(robot_id=f"robot-{n}", robot=robot, world="nominal") for n, robot in enumerate(pool)]
    spool = Spool(run / "spool")
    ids = {unit.robot_id for unit in units}
    for name in ids:
        spool.claim(name)
    network = HostNetwork(
        host_id="host-0",
        bus=lambda: BusConfig(urls=(server.url,)),
        store=store,
        shipper=Shipper(store, spool, ids),
        policies=PolicyFollower(store, load_policy, max_loaded=2),
        metrics=MetricsFile(run, "host-0"),
        heartbeat_s=1.0,
    )
    seen: set[str] = set()
    host_rate = bare_rate = 0.0
    steps = 0
    try:
        _wait(lambda: network.policies.newest is not None, "the policy was not loaded")
        for index in range(rounds):
            settings = EdgeSettings(tasks=tuple(TASKS.values()), seed=index, max_episodes=episodes)
            host = RobotHost(units, settings, network)
            started_s = time.perf_counter()
            host.run(lambda: False)
            host_s = time.perf_counter() - started_s
            new = _await_episodes(store, seen, episodes)
            seen |= new
            recorded = [read_episode(store.get(key)) for key in sorted(new)]
            steps = sum(episode.steps for episode in recorded)
            host_rate = max(host_rate, host.env_steps / host_s)
            bare_rate = max(bare_rate, steps / _replay_s(pool, recorded))
    finally:
        network.close()
        spool.close()
    return FleetSpeed(robots=len(pool), steps=steps, host_steps_per_s=host_rate, bare_steps_per_s=bare_rate)


def _replay_s(pool: list[Robot], episodes: list[Episode]) -> float:
    """Replay recorded episodes on the bare simulators; return the seconds it took."""
    by_robot = {episode.info.robot_id: pool[int(episode.info.robot_id.split("-")[1])] for episode in episodes}
    started_s = time.perf_counter()
    for episode in episodes:
        robot = by_robot[episode.info.robot_id]
        robot.reset(TASKS[episode.info.task], episode.info.seed)
        for action in episode.actions_TA:
            robot.step(action)
    return time.perf_counter() - started_s


def random_policy() -> bytes:
    """A policy with fresh weights: it acts as slowly as a trained one, and its episodes reach their time limits."""
    torch.manual_seed(0)
    embodiment = make_robot().embodiment
    size = embodiment.state_size
    # Embeddings of the tasks' instructions are in every trained policy's file, too.
    generator = torch.Generator().manual_seed(0)
    known = {
        text: torch.randn(EMBEDDING_SIZE, generator=generator).numpy()
        for task in TASKS.values()
        for text in task.instructions
    }
    statistics = StateStatistics(mean=(0.0,) * size, std=(1.0,) * size)
    return policy_bytes(SmallVLA(embodiment, VLAConfig(), statistics, InstructionEncoder(known)))


def _await_episodes(store: ObjectStore, seen: set[str], count: int) -> set[str]:
    """Return the keys of the new episodes once there are as many."""
    _wait(lambda: len(_keys(store)) >= len(seen) + count, "an episode did not reach the store")
    return _keys(store) - seen


def _keys(store: ObjectStore) -> set[str]:
    return {item.key for item in store.list("episodes")}


def _wait(condition: Callable[[], bool], message: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise ServiceError(f"{message} within {_PATIENCE_S:.0f} s")
        time.sleep(0.02)
