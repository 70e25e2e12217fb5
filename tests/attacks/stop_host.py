"""A robot host in a process of its own that notes each command to its robots, for who stops, freezes and kills it.

python -m tests.attacks.stop_host RUN HOST ROBOTS JOURNAL [real]

JOURNAL gets one line per command: monotonic seconds, robot, command, number of the plan that it belongs to.
"""

import sys
import time
from pathlib import Path

from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.types import Task

from .. import point_mass

TASK = Task(
    name="far",
    instructions=("go to the goal",),
    heldout_instructions=("find the goal",),
    sub_steps=("half way", "at the goal"),
    time_limit=100_000,
    long_horizon=False,
)
PERIOD_S = 1 / point_mass.EMBODIMENT.control_hz


def main() -> None:
    run, host, robots, journal, *real = sys.argv[1:]
    out = Path(journal).open("a", buffering=1)  # noqa: SIM115  (as long as the process)
    plans = 0

    class Policy(point_mass.SteeringPolicy):
        """Counts its plans."""

        def act(self, *arguments, **settings):
            nonlocal plans
            plans += 1
            return super().act(*arguments, **settings)

    class Journaling(point_mass.PointMassRobot):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def _note(self, what: str) -> None:
            out.write(f"{time.monotonic()} {self._name} {what} {plans}\n")

        def reset(self, task, seed):
            self._note("reset")
            return super().reset(task, seed)

        def step(self, action):
            self._note("step")
            time.sleep(PERIOD_S / int(robots))
            return super().step(action)

        def hold(self):
            self._note("hold")
            super().hold()

    class Observing(Journaling):
        """Moves on when no step comes, as a real one does."""

        def observe(self):
            return self._observe()

    kind = Observing if real else Journaling
    run_robot_host(
        RobotHostConfig(
            run=Path(run),
            host_id=host,
            robots=tuple(RobotSpec(robot_id=f"{host}-{number}") for number in range(int(robots))),
            heartbeat_s=0.2,
        ),
        make=lambda spec: (kind(spec.robot_id), None),
        tasks=(TASK,),
        load=lambda data: Policy(point_mass.load_policy(data).gain),
    )


if __name__ == "__main__":
    main()
