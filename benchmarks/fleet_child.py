"""One process of a fleet benchmark: `python -m benchmarks.fleet_child ROLE RUN [NUMBER]`.

Roles: `coordinator` (the product's process), `hosts` (robot hosts with the product's whole network side; robots
are writers that hand over a recorded episode at their times, no physics), `learner` (the product's replay reader and
arena, woken by the snapshot announcement; publishes policies), `listeners` (bus connections that note when they
hear of a policy).
"""

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from benchmarks.fleet_plan import (
    EMBODIMENT,
    EPISODE_STEPS,
    HORIZON,
    Phase,
    Plan,
    lines_file,
    phase_file,
    ready_file,
    robot_id,
    stop_file,
)

from lwd.data.store import open_store
from lwd.fleet.coordinator_process import CoordinatorConfig, bus_of, run_coordinator
from lwd.types import Episode, EpisodeInfo, Outcome, Source

POLL_S = 0.02


def coordinator(plan: Plan) -> None:
    run_coordinator(CoordinatorConfig(run=plan.path, store=plan.store))


def hosts(plan: Plan, process: int) -> None:
    import torch

    from lwd.fleet.host_network import HostNetwork
    from lwd.fleet.metrics_file import MetricsFile
    from lwd.fleet.release import PolicyFollower
    from lwd.fleet.shipper import Shipper
    from lwd.fleet.spool import Spool
    from lwd.models.checkpoint import load_policy

    torch.set_num_threads(1)
    lines = _Lines(plan, f"hosts-{process}")

    class NotingFollower(PolicyFollower):
        """The real follower, with a line for every policy that its robots can act with."""

        host = ""

        async def load_wanted(self) -> bool:
            loaded = await super().load_wanted()
            if loaded:
                lines.write(host=self.host, version=self.version, loaded_s=time.time())
            return loaded

    networks: dict[int, HostNetwork] = {}
    with contextlib.ExitStack() as stack:
        for host in plan.hosts_of(process):
            host_id, robots = f"host-{host:04d}", [robot_id(robot) for robot in plan.robots_of(host)]
            store = open_store(plan.store)
            # Its own directory: every host is a machine of its own in a real fleet.
            spool = Spool(plan.path / "spool" / host_id)
            for name in robots:
                spool.claim(name)
            stack.callback(spool.close)
            follower = NotingFollower(store, load_policy, max_loaded=3)
            follower.host = host_id
            networks[host] = HostNetwork(
                host_id=host_id,
                bus=lambda: bus_of(plan.path, None),
                store=store,
                shipper=Shipper(store, spool, set(robots)),
                policies=follower,
                metrics=MetricsFile(plan.path, host_id),
                heartbeat_s=1.0,
            )
            stack.callback(networks[host].close)
        while any(network.policies.newest is None for network in networks.values()):
            time.sleep(POLL_S)
        recordings = Recordings(seed=process)
        lines.ready()
        for phase in _phases(plan):
            for due in plan.schedule(phase):
                host = due.robot // plan.robots_per_host
                if host not in networks:
                    continue
                time.sleep(max(0.0, due.at_s - time.time()))
                networks[host].submit(recordings.episode(due.episode_id, robot_id(due.robot)))
                # What the generator itself is late by counts as latency.
                lines.write(
                    episode_id=due.episode_id, phase=phase.number, produced_s=due.at_s, late_s=time.time() - due.at_s
                )


def learner(plan: Plan) -> None:
    import torch

    from lwd.data.arena import ReplayArena
    from lwd.data.policies import PolicyPublisher
    from lwd.data.reader import ReplayReader
    from lwd.data.sampling import BatchSampler, Stratum
    from lwd.fleet.learner_link import LearnerLink
    from lwd.recipes.bench_fleet import random_policy

    torch.set_num_threads(1)
    lines = _Lines(plan, "learner")
    store = open_store(plan.store)
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    arena = ReplayArena(EMBODIMENT, horizon=HORIZON, gamma=0.999, embed=lambda _: vector)
    reader = ReplayReader(store, arena)
    sampler = BatchSampler(arena, [Stratum()], batch_size=256, seed=0)
    publisher = PolicyPublisher(store)
    link = LearnerLink(lambda: bus_of(plan.path, None))
    policy = random_policy()

    def publish() -> None:
        link.announce_policy(manifest := publisher.publish(policy, update=0, snapshot=reader.version))
        lines.write(version=manifest.version, published_s=manifest.published_at_s, size_bytes=len(policy))

    publish()
    lines.ready()
    next_policy_s = time.monotonic() + plan.publish_every_s
    batches = 0
    while not stop_file(plan.path).exists():
        added = reader.advance()
        if added:
            # Sampleable means: a batch has been drawn from a replay that holds them.
            sampler.batch(batches)
            batches += 1
            now_s = time.time()
            for entry in added:
                lines.write(episode_id=entry.episode_id, sampleable_s=now_s, snapshot=reader.version)
        if time.monotonic() >= next_policy_s:
            publish()
            next_policy_s += plan.publish_every_s
        link.wait_for_snapshot(max(0.0, min(0.5, next_policy_s - time.monotonic())))
    link.close()
    reader.close()


async def listeners(plan: Plan, process: int) -> None:
    from lwd.fleet.bus import Bus
    from lwd.fleet.messages import POLICY_SUBJECT, PolicyPointer

    lines = _Lines(plan, f"listeners-{process}")

    async def heard(pointer: PolicyPointer) -> None:
        lines.write(version=pointer.version, heard_s=time.time())

    buses = []
    for number in range(plan.listeners):
        bus = await Bus.connect(bus_of(plan.path, None), name=f"listener-{process}-{number}")
        await bus.subscribe(POLICY_SUBJECT, PolicyPointer, heard)
        buses.append(bus)
    lines.ready()
    while not stop_file(plan.path).exists():
        await asyncio.sleep(POLL_S)
    for bus in buses:
        await bus.close()


class _Lines:
    """What this process saw, for the parent."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan, self._name = plan, name
        self._file: IO[str] = lines_file(plan.path, name).open("a", buffering=1)

    def write(self, **values: object) -> None:
        self._file.write(json.dumps(values) + "\n")

    def ready(self) -> None:
        ready_file(self._plan.path, self._name).touch()


class Recordings:
    """Episodes of about 80 KB: a few recordings under ever new names."""

    def __init__(self, *, seed: int, count: int = 16) -> None:
        rng = np.random.default_rng(seed)
        shape = (count, EPISODE_STEPS + 1)
        self._states = rng.normal(size=(*shape, EMBODIMENT.state_size)).cumsum(axis=1).astype(np.float32) / 30
        self._actions = rng.uniform(-1, 1, size=(count, EPISODE_STEPS, EMBODIMENT.action_size)).astype(np.float32)
        self._controllers = (rng.random((count, EPISODE_STEPS)) < 0.1).astype(np.uint8)
        self._used = 0

    def episode(self, episode_id: str, robot: str) -> Episode:
        self._used += 1
        index = self._used % len(self._states)
        return Episode(
            info=EpisodeInfo(
                episode_id=episode_id,
                robot_id=robot,
                embodiment=EMBODIMENT.name,
                task="bench",
                instruction="do what the benchmark says",
                source=Source.FLEET,
                outcome=Outcome.SUCCESS,
                policy_version=0,
                sub_step_scores=(1.0,),
                control_hz=EMBODIMENT.control_hz,
                seed=self._used,
                world="nominal",
                started_at_s=time.time() - EPISODE_STEPS / EMBODIMENT.control_hz,
                software_version="benchmark",
            ),
            states_TS=self._states[index],
            actions_TA=self._actions[index],
            controllers_T=self._controllers[index],
        )


def _phases(plan: Plan) -> Iterator[Phase]:
    """Yield the phases as the parent starts them, until it says stop."""
    number = 0
    while not stop_file(plan.path).exists():
        path = phase_file(plan.path, number)
        if path.exists():
            yield Phase(**json.loads(path.read_text()))
            number += 1
        else:
            time.sleep(POLL_S)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    role, plan, number = sys.argv[1], Plan.load(Path(sys.argv[2])), int((*sys.argv[3:], "0")[0])
    if role == "coordinator":
        coordinator(plan)
    elif role == "hosts":
        hosts(plan, number)
    elif role == "learner":
        learner(plan)
    else:
        asyncio.run(listeners(plan, number))


if __name__ == "__main__":
    main()
