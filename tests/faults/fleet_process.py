"""Run the real processes of a fleet with the point mass as their robot.

python -m tests.faults.fleet_process {coordinator | host | supervise} RUN [NAME] [EPISODES]
"""

import logging
import sys
import time
from pathlib import Path

from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig

from .journal import JournalingSpool

HOSTS = ("host-a", "host-b")


def coordinator(run: Path) -> None:
    run_coordinator(CoordinatorConfig(run=run, reconcile_s=1.0, linger_s=0.05, heartbeat_s=0.2))


def host(run: Path, name: str, episodes: int | None) -> None:
    # Here, not above: torch takes seconds, and only robots need it.
    from lwd.fleet import host_process
    from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host

    from .. import point_mass

    class SlowPointMass(point_mass.PointMassRobot):
        """Leaves time to be killed between two steps."""

        def step(self, action):
            time.sleep(0.001)
            return super().step(action)

    host_process.Spool = lambda root, limits: JournalingSpool(root, run / "journal.txt")
    robots = tuple(RobotSpec(robot_id=f"{name}.robot-{number}") for number in range(3))
    run_robot_host(
        RobotHostConfig(run=run, host_id=name, robots=robots, heartbeat_s=0.2, max_episodes=episodes),
        make=lambda _: (SlowPointMass(), None),
        tasks=point_mass.TASKS,
        load=point_mass.load_policy,
    )


def supervise(run: Path, episodes: str) -> None:
    def spec(*arguments: str) -> ProcessSpec:
        name = arguments[1] if len(arguments) > 1 else arguments[0]
        command = (sys.executable, "-m", "tests.faults.fleet_process", arguments[0], str(run), *arguments[1:], episodes)
        return ProcessSpec(name=name, command=command)

    groups = ((spec("coordinator"),), tuple(spec("host", name) for name in HOSTS))
    Supervisor(SupervisorConfig(run=run, groups=groups), on_event=logging.info).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    role, run_directory, *rest = sys.argv[1:]
    count = rest[-1] if rest and rest[-1] != "-" else None
    if role == "coordinator":
        coordinator(Path(run_directory))
    elif role == "host":
        host(Path(run_directory), rest[0], None if count is None else int(count))
    else:
        supervise(Path(run_directory), rest[-1] if rest else "-")
