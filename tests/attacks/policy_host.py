"""A real robot host with point masses at some pace: `python -m tests.attacks.policy_host RUN NATS_URL`."""

import logging
import sys
import time
from pathlib import Path

from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.policy_trial import TrialLimits
from lwd.fleet.spool import SpoolLimits
from lwd.types import FloatArray, StepResult

from .. import point_mass

TRIAL = TrialLimits(seconds=6.0, act_seconds=4.0, spare_bytes=192 * 2**20)
"""Little, so that hanging and swelling policies take the test no minutes and no gigabytes."""
_STEP_S = 0.004


class PacedPointMass(point_mass.PointMassRobot):
    def step(self, action: FloatArray) -> StepResult:
        time.sleep(_STEP_S)
        return super().step(action)


def main(run: Path, url: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    config = RobotHostConfig(
        run=run,
        host_id="host",
        robots=(RobotSpec(robot_id="robot-1"), RobotSpec(robot_id="robot-2")),
        bus=BusConfig(urls=(url,)),
        heartbeat_s=0.2,
        stop_drain_s=1.0,
        spool_limits=SpoolLimits(min_free_bytes=0),
        trial_limits=TRIAL,
    )
    run_robot_host(config, make=lambda _: (PacedPointMass(), None), tasks=(point_mass.task("near", 40),))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
