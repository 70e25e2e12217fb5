"""A robot's program as an integrator writes it: only what the extra `edge` brings.

python edge_robot.py POINT_MASS.py RUN NATS_URL EPISODES
"""

import importlib.util
import sys
from pathlib import Path

from lwd.fleet.bus_config import BusConfig
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host

if __name__ == "__main__":
    robot_file, run, nats_url, episodes = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("point_mass", robot_file)
    point_mass = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(point_mass)
    run_robot_host(
        RobotHostConfig(
            run=Path(run),
            host_id="edge",
            robots=(RobotSpec(robot_id="edge-robot"),),
            bus=BusConfig(urls=(nats_url,)),
            max_episodes=int(episodes),
        ),
        make=lambda _: (point_mass.PointMassRobot(), None),
        tasks=point_mass.TASKS,
    )
    for forbidden in ("lwd.learner", "lwd.algos", "mujoco", "ogbench", "tensorboard", "matplotlib"):
        assert forbidden not in sys.modules, forbidden
