"""kill -9 at random moments: every spooled episode is committed exactly once, byte for byte."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore

from .. import point_mass
from .fleet_process import HOSTS
from .journal import read_journal
from .servers import environment

PATIENCE_S = 300.0
"""For machines that are busy with something else; a quiet one needs seconds."""


class Fleet:
    """A supervised fleet in a subprocess."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.store = DirectoryStore(run / "store")
        self.process: subprocess.Popen | None = None
        PolicyPublisher(self.store).publish(point_mass.policy_bytes(2.0), update=0, snapshot=0)

    def start(self, episodes: str = "-") -> None:
        with (self.run / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.fleet_process", "supervise", str(self.run), episodes],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment()},
            )

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=PATIENCE_S) == 0, self.logs()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def pids(self) -> dict[str, int]:
        try:
            return json.loads((self.run / "processes.json").read_text())
        except FileNotFoundError:
            return {}

    def journal(self) -> dict[str, str]:
        return read_journal(self.run / "journal.txt")

    def snapshot(self):
        reader = LogReader(self.store)
        reader.poll()  # raises if an episode is in the log twice
        return reader.snapshot

    def logs(self) -> str:
        files = [self.run / "supervisor.log", *(self.run / "logs").glob("*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-1500:]}" for file in files if file.exists())


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def wait_until(condition: Callable[[], bool], timeout_s: float, fleet: Fleet) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, fleet.logs()
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_exactly_once(fleet: Fleet) -> int:
    """Compare journal, spool, store and log. Returns the number of episodes."""
    committed = {item.entry.key: item.entry.sha256 for item in fleet.snapshot().episodes.values()}
    journal = fleet.journal()
    assert journal.items() <= committed.items(), fleet.logs()
    stored = {item.key for item in fleet.store.list("episodes")}
    assert stored == committed.keys()
    assert list(fleet.store.list("quarantine")) == []
    for key, sha256 in committed.items():
        assert hashlib.sha256(fleet.store.get(key)).hexdigest() == sha256
    assert list((fleet.run / "spool").glob("*/*.arrow")) == []
    return len(committed)


def kill(fleet: Fleet, name: str) -> bool:
    """Kill a process if it runs; False while it waits to be started again."""
    try:
        os.kill(fleet.pids()[name], signal.SIGKILL)
    except (KeyError, ProcessLookupError):
        return False
    return True


def crash_repeatedly(fleet: Fleet, *, kills: int, between_s: tuple[float, float], seed: int) -> list[str]:
    chance = random.Random(seed)
    killed = []
    wait_until(lambda: len(fleet.snapshot().episodes) > 5, PATIENCE_S, fleet)
    names = ["coordinator", "nats", *HOSTS]
    while len(killed) < kills:
        time.sleep(chance.uniform(*between_s))
        # Each once, then at random.
        name = names[len(killed)] if len(killed) < len(names) else chance.choice(names)
        wait_until(lambda name=name: kill(fleet, name), PATIENCE_S, fleet)
        killed.append(name)
    return killed


def run_crashes(fleet: Fleet, **crashes) -> int:
    fleet.start()
    crash_repeatedly(fleet, **crashes)
    before = len(fleet.snapshot().episodes)
    wait_until(lambda: len(fleet.snapshot().episodes) > before + 5, PATIENCE_S, fleet)
    fleet.stop()
    # A last start without new episodes ships what the kills left in the spools.
    fleet.start(episodes="0")
    wait_until(lambda: "coordinator" in fleet.pids(), PATIENCE_S, fleet)
    wait_until(lambda: not list((fleet.run / "spool").glob("*/*.arrow")), PATIENCE_S, fleet)
    fleet.stop()
    return assert_exactly_once(fleet)


def test_each_process_is_killed_once(fleet):
    assert run_crashes(fleet, kills=4, between_s=(0.2, 0.8), seed=0) > 10


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_processes_are_killed_at_random_for_a_while(fleet, seed):
    assert run_crashes(fleet, kills=25, between_s=(0.1, 3.0), seed=seed) > 100


@pytest.mark.faults
def test_all_of_nats_is_lost(fleet):
    """A deleted bus loses nothing: the coordinator lists the store, robots look for policies there."""
    fleet.start()
    wait_until(lambda: len(fleet.snapshot().episodes) > 5, PATIENCE_S, fleet)
    os.kill(fleet.pids()["nats"], signal.SIGKILL)
    shutil.rmtree(fleet.run / "nats" / "jetstream", ignore_errors=True)
    before = len(fleet.snapshot().episodes)
    PolicyPublisher(fleet.store).publish(point_mass.policy_bytes(2.5), update=1, snapshot=1)
    wait_until(lambda: len(fleet.snapshot().episodes) > before + 20, PATIENCE_S, fleet)
    # Without a bus a robot looks for a policy every five seconds: twenty episodes may be faster.
    wait_until(
        lambda: any(item.entry.policy_version == 1 for item in fleet.snapshot().episodes.values()), PATIENCE_S, fleet
    )
    fleet.stop()
    assert_exactly_once(fleet)


def test_nothing_outlives_a_killed_supervisor(fleet):
    fleet.start()
    wait_until(lambda: len(fleet.pids()) == 2 + len(HOSTS), PATIENCE_S, fleet)
    pids = fleet.pids()
    fleet.process.kill()
    fleet.process.wait()
    wait_until(lambda: not any(running(pid) for pid in pids.values()), PATIENCE_S, fleet)


def test_stopping_in_order_leaves_everything_committed(fleet):
    fleet.start()
    wait_until(lambda: len(fleet.journal()) > 5, PATIENCE_S, fleet)
    fleet.stop()
    outcomes = {item.entry.outcome.value for item in fleet.snapshot().episodes.values()}
    # Running episodes were cut by the stop: recorded, with their outcome unknown.
    assert "truncated" in outcomes
    assert "success" in outcomes
    assert_exactly_once(fleet)
    assert fleet.pids() == {}
