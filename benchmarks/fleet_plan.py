"""What parent and children of a fleet benchmark agree on: who takes part, and when which robot ends an episode."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from lwd.data.store import StoreConfig
from lwd.types import Embodiment, TokenSpec

EPISODE_STEPS = 1000
HORIZON = 5
EMBODIMENT = Embodiment(
    name="bench-arm",
    control_hz=30.0,
    state_tokens=(TokenSpec(name="proprio", size=14),),
    action_low=(-1.0,) * 7,
    action_high=(1.0,) * 7,
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of time in which every robot ends one episode per `period_s`."""

    name: str
    number: int
    period_s: float
    duration_s: float
    begins_at_s: float
    """Unix time: one clock for all processes of the machine."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """One episode of the schedule."""

    at_s: float
    """Unix time."""
    robot: int
    episode_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The processes of a run and what they share."""

    run: str
    """Run directory of the fleet: NATS, spools, metrics, and the files by which parent and children talk."""
    robots: int
    store_url: str
    store_options: dict[str, str] = field(default_factory=dict)
    robots_per_host: int = 16
    processes: int = 4
    """Processes that the hosts are spread over, at most."""
    publish_every_s: float = 10.0
    """Time between two policies."""
    listeners: int = 256
    """Connections of one listening process."""
    seed: int = 0

    @property
    def path(self) -> Path:
        return Path(self.run)

    @property
    def store(self) -> StoreConfig:
        return StoreConfig(url=self.store_url, options=self.store_options)

    @property
    def hosts(self) -> int:
        return -(-self.robots // self.robots_per_host)

    @property
    def host_processes(self) -> int:
        return min(self.processes, self.hosts)

    def hosts_of(self, process: int) -> list[int]:
        """Return the hosts that run in one process."""
        return list(range(process, self.hosts, self.host_processes))

    def robots_of(self, host: int) -> list[int]:
        """Return the robots of one host."""
        return list(range(host * self.robots_per_host, min(self.robots, (host + 1) * self.robots_per_host)))

    def schedule(self, phase: Phase) -> list[Due]:
        """Return every episode of a phase in the order of time: robots are out of step with each other, at random."""
        offset_s = np.random.default_rng([self.seed, phase.number]).uniform(0, phase.period_s, self.robots)
        due = []
        for robot in range(self.robots):
            for count, at_s in enumerate(np.arange(offset_s[robot], phase.duration_s, phase.period_s)):
                name = f"{robot_id(robot)}-{phase.number}-{count}"
                due.append(Due(at_s=phase.begins_at_s + float(at_s), robot=robot, episode_id=name))
        return sorted(due, key=lambda item: item.at_s)

    def save(self) -> None:
        (self.path / "plan.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, run: Path) -> "Plan":
        return cls(**json.loads((run / "plan.json").read_text()))


def robot_id(robot: int) -> str:
    return f"robot-{robot:05d}"


def phase_file(run: Path, number: int) -> Path:
    """Return the file by which the parent starts a phase."""
    return run / f"phase-{number:03d}.json"


def stop_file(run: Path) -> Path:
    """Return the file by which the parent ends the hosts and the learner."""
    return run / "stop"


def ready_file(run: Path, process: str) -> Path:
    """Return the file by which a child says that it is ready."""
    return run / f"{process}.ready"


def lines_file(run: Path, process: str) -> Path:
    """Return the file to which a child writes what it saw, one JSON object a line."""
    return run / f"{process}.jsonl"


def read_lines(run: Path, process: str) -> list[dict[str, object]]:
    """Return what a child has written so far."""
    path = lines_file(run, process)
    if not path.exists():
        return []
    content = path.read_text()
    return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]
