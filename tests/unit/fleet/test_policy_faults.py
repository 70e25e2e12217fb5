"""A policy that fails on the robots: their fault and its own, never the host's."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from lwd.data.policies import newest_policy
from lwd.fleet.bus import Bus
from lwd.fleet.messages import HostHeartbeat, host_subject
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.release import pointer_of
from lwd.types import Outcome

from ... import point_mass
from .test_edge import make_bench, never


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Raises(point_mass.SteeringPolicy):
    """Acts by its gain: as usual up to 5, and beyond it in some wrong way each time."""

    def act(self, observations, instructions, *, generator):
        if self.gain > 5:
            self.batches.append(0)
            wrong = (KeyError("w"), MemoryError(), np.zeros((1, 2)), np.full((len(observations), 5, 2), np.nan))
            found = wrong[int(self.gain) % len(wrong)]
            if isinstance(found, Exception):
                raise found
            return found
        return super().act(observations, instructions, generator=generator)


def load_raising(data: bytes) -> Raises:
    return Raises(point_mass.load_policy(data).gain)


@pytest.mark.parametrize("gain", [8.0, 9.0, 10.0, 11.0])
def test_a_policy_that_fails_on_the_robots_brings_them_back_to_the_one_before(tmp_path, server, monkeypatch, gain):
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.01)
    with make_bench(tmp_path, server, robots=3, load=load_raising) as bench:
        bench.publish(2.0)
        host = bench.host()

        def stop() -> bool:
            if host.finished == 3 and bench.publisher.newest == 0:
                bench.publish(gain)
                bench.network.policies.want(pointer_of(newest_policy(bench.store)))
                bench.network._thread.loop.call_soon_threadsafe(bench.network._wake_policy.set)
            return host.finished > 12 and bench.network.policies.unused == 1

        host.run(stop)
        assert bench.network.policies.version == 0
        complaint = bench.network.policies.complaint
        assert "policy 1 is not used: 3 faults in a row" in complaint
        assert "robots act with policy 0" in complaint
        assert bench.network.drain(10.0, committed=False)
        # No episode was ended by it: a version is changed between episodes only.
        assert {entry.policy_version for entry in bench.finish()} == {0}


def test_a_policy_that_fails_while_predicting_ahead_brings_the_robot_back(tmp_path, server, monkeypatch):
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.01)

    class Later(point_mass.SteeringPolicy):
        def act(self, observations, instructions, *, generator):
            if self.gain > 5 and threading.current_thread().name.startswith("chunk-ahead"):
                raise KeyError("w")
            return super().act(observations, instructions, generator=generator)

    with make_bench(tmp_path, server, robots=1, load=lambda data: Later(point_mass.load_policy(data).gain)) as bench:
        bench.publish(2.0)
        bench.publish(9.0)
        bench.host(predict_ahead=3, max_episodes=6).run(never)
        assert bench.network.policies.unused == 1
        outcomes = [entry.outcome for entry in bench.finish() if entry.policy_version == 0]
    assert Outcome.SUCCESS in outcomes


def test_a_host_without_a_policy_that_works_waits_and_says_so(tmp_path, server, monkeypatch):
    """It does not end: another version helps, another start does not."""
    monkeypatch.setattr("lwd.fleet.edge._REST_S", 0.01)
    with make_bench(tmp_path, server, robots=2, load=load_raising) as bench:
        beats: list[HostHeartbeat] = []

        async def hear() -> Bus:
            bus = await Bus.connect(server.url, name="test")

            async def heard(beat: HostHeartbeat) -> None:
                beats.append(beat)

            await bus.subscribe(host_subject("host"), HostHeartbeat, heard)
            return bus

        bus = bench.network._thread.call(hear())
        bench.publish(8.0)
        host = bench.host()

        def stop() -> bool:
            if bench.publisher.newest == 0 and any("robots wait for another one" in beat.error for beat in beats):
                assert beats[-1].policy_version == -1
                bench.publish(2.0)
            return host.finished >= 2

        host.run(stop)
        bench.network._thread.call(bus.close())
        assert {entry.policy_version for entry in bench.finish()} == {1}
