"""The stop and the watchdog on real processes: parts of the fleet are killed or frozen, the robots' journal is read."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.fleet.nats_server import NatsServer

from .. import point_mass
from ..faults.servers import environment
from .conftest import Measured

pytestmark = pytest.mark.attacks
PATIENCE_S = 120.0
"""For machines that are busy with something else."""
FREEZE_S = 20.0


@dataclass(frozen=True)
class Line:
    at_s: float
    robot: str
    what: str
    plan: int


def until(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    deadline_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, "not within the time"
        time.sleep(0.02)
    return found


class Fleet:
    """Bus, coordinator and hosts; ends what it started, by its process."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        PolicyPublisher(DirectoryStore(run / "store")).publish(point_mass.policy_bytes(0.0), update=0, snapshot=0)

    def start(self, name: str, module: str, *arguments: str) -> None:
        with (self.run / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdout=log, stderr=log, env={**os.environ, **environment()}
            )

    def start_host(self, name: str, *more: str) -> None:
        journal = str(self.run / f"{name}.journal")
        self.start(name, "tests.attacks.stop_host", str(self.run), name, "3" if not more else "1", journal, *more)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        for name in tuple(self.processes):
            with suppress(ProcessLookupError):
                self.processes[name].send_signal(signal.SIGCONT)
            self.kill(name)

    def journal(self, *names: str) -> list[Line]:
        lines = []
        for name in names:
            with suppress(FileNotFoundError):
                # The last one may be half written.
                for line in (self.run / f"{name}.journal").read_text().split("\n")[:-1]:
                    at, robot, what, plan = line.split()
                    lines.append(Line(float(at), robot, what, int(plan)))
        return sorted(lines, key=lambda line: line.at_s)

    def moves(self, since_s: float, *names: str) -> list[Line]:
        return [line for line in self.journal(*names) if line.at_s > since_s and line.what != "hold"]

    def stop(self, *options: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "lwd", "stop", "--run", str(self.run), "--within", "60", *options],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, **environment()},
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.run.glob("*.log"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    try:
        yield fleet
    finally:
        fleet.close()


def test_stop_verb_holds_every_host_with_store_coordinator_and_bus_dead(fleet: Fleet, measured: Measured) -> None:
    hosts = ("host-a", "host-b")
    with NatsServer(fleet.run / "nats") as bus:
        fleet.start("coordinator", "tests.faults.fleet_process", "coordinator", str(fleet.run))
        for host in hosts:
            fleet.start_host(host)
        for host in hosts:
            until(lambda host=host: len(fleet.moves(0.0, host)) > 30)
        # No learner was ever there; now the coordinator and the store go.
        fleet.kill("coordinator")
        (fleet.run / "store").rename(fleet.run / "gone")
        (fleet.run / "store").touch()
        called_s = time.monotonic()
        status, said = fleet.stop("--reason", "smoke", "--name", "ada")
        confirmed_s = time.monotonic()
        assert status == 0, said + fleet.logs()
        assert {line.split()[0] for line in said.splitlines() if " holds after " in line} == set(hosts), said
        time.sleep(1.0)
        assert not fleet.moves(confirmed_s, *hosts)
        last_s = max(line.at_s for line in fleet.moves(0.0, *hosts))
        measured(
            "lwd stop; no learner, coordinator and store",
            f"last of 6 robots' steps {1000 * max(0.0, last_s - called_s):.0f} ms after the command began",
            "none once it returned",
        )
        (fleet.run / "store").unlink()
        (fleet.run / "gone").rename(fleet.run / "store")
        assert bus.process is not None
        bus.process.kill()
        bus.process.wait()

        # Who comes back is stopped, with the bus dead, too.
        fleet.kill("host-a")
        fleet.start_host("host-a")
        until(lambda: is_held(fleet, "host-a"))
        status, said = fleet.stop("--name", "bob")
        assert status == 0, said + fleet.logs()
        assert "host-a holds" in said, said
        assert "host-b holds" in said, said
        assert not fleet.moves(confirmed_s, *hosts)

        status, said = fleet.stop("--release", "--reason", "looked", "--name", "bob")
        assert "stopped by ada: smoke; by bob" in said
        for host in hosts:
            until(lambda host=host: len(fleet.moves(confirmed_s, host)) > 5)

        # A button that knows no Python, then one that knows only the process.
        for press in (
            (fleet.run / "stop" / "button").touch,
            lambda: fleet.processes["host-b"].send_signal(signal.SIGUSR1),
        ):
            pressed_s = time.monotonic()
            press()
            until(lambda: all(is_held(fleet, host) for host in hosts))
            held_s = time.monotonic()
            time.sleep(0.5)
            assert not fleet.moves(held_s, *hosts)
            last_s = max([line.at_s for line in fleet.moves(pressed_s, *hosts)], default=pressed_s)
            measured("button, bus dead", f"last step {1000 * (last_s - pressed_s):.0f} ms after it", "none once held")
            fleet.stop("--release", "--reason", "looked")
            until(lambda held_s=held_s: all(fleet.moves(held_s, host) for host in hosts))


def is_held(fleet: Fleet, host: str) -> bool:
    with suppress(OSError, ValueError):
        content = json.loads((fleet.run / "stop" / "hosts" / f"{host}.json").read_bytes())
        # Not what one that was killed has left behind.
        is_own = content["pid"] == fleet.processes[host].pid
        report = content["report"]
        return is_own and bool(report["stops"]) and all(robot["holds"] for robot in report["robots"])
    return False


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_frozen_host_holds_first_and_executes_nothing_of_its_old_plan(
    fleet: Fleet, kind: str, measured: Measured
) -> None:
    with NatsServer(fleet.run / "nats"):
        fleet.start_host("host-a", *(("real",) if kind == "real" else ()))
        until(lambda: len(fleet.moves(0.0, "host-a")) > 30)
        process = fleet.processes["host-a"]
        process.send_signal(signal.SIGSTOP)
        time.sleep(FREEZE_S)
        before = fleet.journal("host-a")
        went_on_s = time.monotonic()
        process.send_signal(signal.SIGCONT)
        until(lambda: len(fleet.moves(went_on_s, "host-a")) > 10)
        after = [line for line in fleet.journal("host-a") if line.at_s > went_on_s]
        old = [line for line in after if line.what == "step" and line.plan <= before[-1].plan]
        measured(
            f"host of {kind} robots frozen for {FREEZE_S:g} s",
            f"{len(old)} steps of the old plan, {after[0].what} after {1000 * (after[0].at_s - went_on_s):.0f} ms",
            "0, hold first",
        )
        assert not old
        assert after[0].what == "hold"
