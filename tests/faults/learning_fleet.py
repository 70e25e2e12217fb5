"""A whole learning fleet of real processes for the kill points: coordinator, learner, two hosts of simulated robots.

    python -m tests.faults.learning_fleet {supervise | host} RUN [NAME]

Its store lies on a mount of its own where the machine allows it, so that it can be taken away as a disk is.
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lwd.data.log import EpisodeEntry, LogReader
from lwd.data.store import ObjectStore
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Source

from .journal import JournalingSpool, journal_path, read_journal
from .servers import environment

HOSTS = ("host-a", "host-b")
ROBOTS_PER_HOST = 2
PATIENCE_S = 300.0
"""For machines that are busy with something else; a quiet one needs seconds."""
_LWD = (sys.executable, "-m", "lwd")
_SMOKE = ("--budget", "smoke")


def prepare(run: Path) -> None:
    """Make the data and the stages that a learner needs, with the verbs that a user calls (about a minute)."""
    for verb in (("data", "generate"), ("sft",), ("offline",)):
        subprocess.run([*_LWD, *verb, "--run", str(run), *_SMOKE], check=True, env={**os.environ, **environment()})


class Mount:
    """Where the store lies: a bind mount, or a directory that is renamed where nothing may be mounted."""

    def __init__(self, place: Path, backing: Path) -> None:
        self._place, self._backing = place, backing
        place.rename(backing)
        place.mkdir()
        self.real = os.geteuid() == 0 and self._mount()
        if not self.real:
            self._put_back()

    def take_away(self) -> None:
        """Leave an empty directory, as a mount point is without its disk."""
        if self.real:
            # Lazily: whoever has files open there keeps them, as with a network disk that went away.
            subprocess.run(["umount", "--lazy", str(self._place)], check=True)
        else:
            self._place.rename(self._backing)
            self._place.mkdir()

    def bring_back(self) -> None:
        if self.real:
            assert self._mount()
        else:
            self._put_back()

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", "--lazy", str(self._place)], check=False, capture_output=True)

    def _mount(self) -> bool:
        command = ["mount", "--bind", str(self._backing), str(self._place)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def _put_back(self) -> None:
        for left in self._place.iterdir():
            raise AssertionError(f"somebody wrote {left} where no disk was")
        self._place.rmdir()
        self._backing.rename(self._place)


class LearningFleet:
    """The fleet of one run, under a supervisor in a process of its own."""

    def __init__(self, run: Path, variables: Mapping[str, str] | None = None) -> None:
        """
        Args:
            variables: of the fleet's environment; given where its store is elsewhere.
        """
        self.run = run
        self.mount = None if variables else Mount(run / "store", run / "disk")
        self._variables = variables or {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Mount:
        assert self.mount is not None
        return self.mount

    @property
    def store(self) -> ObjectStore:
        return RunDirectory(self.run).store()

    def start(self) -> None:
        with (self.run / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.learning_fleet", "supervise", str(self.run)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment(), **self._variables},
            )

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(timeout=PATIENCE_S) == 0, self.logs()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.mount is not None:
            self.mount.close()

    def pids(self) -> dict[str, int]:
        try:
            return dict(json.loads((self.run / "processes.json").read_text()))
        except FileNotFoundError:
            return {}

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pids()[name], number)

    def accepted(self) -> dict[str, str]:
        """What the spools said is safe: SHA-256 by key."""
        found: dict[str, str] = {}
        for name in HOSTS:
            found |= read_journal(journal_path(self.run, name))
        return found

    def committed(self) -> dict[str, str]:
        """What the log holds of this fleet's robots: SHA-256 by key. Raises if an episode is in it twice."""
        return {item.key: item.sha256 for item in self.entries()}

    def entries(self) -> list[EpisodeEntry]:
        """The same as the log's entries."""
        reader = LogReader(self.store)
        reader.poll()
        return [
            item.entry
            for item in reader.snapshot.episodes.values()
            if item.entry.source is Source.FLEET and item.entry.robot_id.startswith(HOSTS)
        ]

    def acted(self) -> int:
        """The newest version that robots have acted with."""
        return max((entry.policy_version for entry in self.entries()), default=-1)

    def wait(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process is None or self.process.poll() is None, self.logs()
            assert time.monotonic() < deadline_s, self.logs()
            time.sleep(0.1)

    def wait_for_more(self, episodes: int) -> None:
        """Wait until so many more episodes are committed."""
        before = len(self.committed())
        self.wait(lambda: len(self.committed()) >= before + episodes)

    def wait_for_policy(self) -> None:
        """Wait until robots act with a newer policy: the learner trains and publishes."""
        before = self.acted()
        self.wait(lambda: self.acted() > before)

    def logs(self) -> str:
        files = [self.run / "supervisor.log", *(self.run / "logs").glob("*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2500:]}" for file in files)

    def count(self) -> int:
        """Stop the fleet, and compare journals, spools, store and log. Returns the number of accepted episodes."""
        self.wait(lambda: not (self.accepted().keys() - self.committed().keys()))
        self.stop()
        self.start()
        self.wait(lambda: "host-b" in self.pids())
        # Stopping cut the running episodes: their last part is shipped by this start.
        self.wait(lambda: not (self.accepted().keys() - self.committed().keys()))
        self.stop()
        accepted, committed = self.accepted(), self.committed()
        left = {
            f"episodes/{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.run / "spool").glob("*/*.arrow")
        }
        assert accepted == {**left, **committed}, self.logs()
        assert left.items() <= accepted.items()
        for key, sha256 in committed.items():
            assert hashlib.sha256(self.store.get(key)).hexdigest() == sha256
        assert not list((self.run / "spool").glob("*/rejected/*")), self.logs()
        return len(accepted)


@contextlib.contextmanager
def learning_fleet(run: Path, variables: Mapping[str, str] | None = None) -> Iterator[LearningFleet]:
    """A fleet that runs, has committed some episodes, and acts with a policy that its learner has published."""
    fleet = LearningFleet(run, variables)
    try:
        fleet.start()
        fleet.wait_for_more(4)
        fleet.wait_for_policy()
        yield fleet
    finally:
        fleet.close()


def _supervise(run: Path) -> None:
    from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig

    one_thread = {"OMP_NUM_THREADS": "1"}
    where = ("--run", str(run))
    coordinator = ProcessSpec(name="coordinator", command=(*_LWD, "coordinator", *where), environment=one_thread)
    learner = ProcessSpec(
        name="learner",
        command=(*_LWD, "learner", *where, *_SMOKE, "--env-steps", "100000000"),
        restart="temporary",
        ends_run=True,
        environment=one_thread,
    )
    hosts = tuple(
        ProcessSpec(
            name=name,
            command=(sys.executable, "-m", "tests.faults.learning_fleet", "host", str(run), name),
            environment=one_thread,
        )
        for name in HOSTS
    )
    groups = ((coordinator,), (learner,), hosts)
    Supervisor(SupervisorConfig(run=run, groups=groups), on_event=logging.info).run()


def _host(run: Path, name: str) -> None:
    # Here, not above: torch takes seconds, and only robots need it.
    from lwd.fleet import host_process
    from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host

    host_process.Spool = lambda root, limits: JournalingSpool(root, journal_path(run, name))
    robots = tuple(RobotSpec(robot_id=f"{name}.robot-{number}") for number in range(ROBOTS_PER_HOST))
    store = RunDirectory(run).store_config
    run_robot_host(RobotHostConfig(run=run, host_id=name, robots=robots, store=store, seed=HOSTS.index(name)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    role, run_directory, *rest = sys.argv[1:]
    if role == "host":
        _host(Path(run_directory), rest[0])
    else:
        _supervise(Path(run_directory))
