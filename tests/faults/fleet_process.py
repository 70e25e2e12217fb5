"""Run the real processes of a fleet with the point mass as their robot.

    python fleet_process.py {coordinator | host | supervise} RUN [NAME] [EPISODES]

The spool also writes a journal line per spooled episode, after it is durable: the test compares with it.
"""

import logging
import os
import sys
import time
from pathlib import Path

from lwd.fleet.coordinator_process import CoordinatorConfig, run_coordinator
from lwd.fleet.spool import Spool, SpooledEpisode
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig

HOSTS = ("host-a", "host-b")


class JournalingSpool(Spool):
    """The real spool, with a journal of what it said is safe."""

    def add(self, robot_id: str, episode_id: str, data: bytes) -> SpooledEpisode:
        episode = super().add(robot_id, episode_id, data)
        line = f"{episode.key} {episode.read()[1]}\n".encode()
        journal = os.open(episode.path.parents[2] / "journal.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(journal, line)
        os.close(journal)
        return episode


def coordinator(run: Path) -> None:
    run_coordinator(CoordinatorConfig(run=run, reconcile_s=1.0, linger_s=0.05, heartbeat_s=0.2))


def host(run: Path, name: str, episodes: int | None) -> None:
    # Here, not above: torch takes seconds, and only robots need it.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import point_mass
    from lwd.fleet import host_process
    from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host

    class SlowPointMass(point_mass.PointMassRobot):
        """Leaves time to be killed between two steps."""

        def step(self, action):
            time.sleep(0.001)
            return super().step(action)

    host_process.Spool = JournalingSpool
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
        command = (sys.executable, __file__, arguments[0], str(run), *arguments[1:], episodes)
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
