"""A Gymnasium environment of two arms with seven joints each that follow their targets, and a robot host that runs it.

`python two_arms.py RUN`: bus, an untrained policy, one robot and a coordinator, until SIGTERM.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw

JOINTS = 14
LABELS = tuple(
    f"{side} {joint}"
    for side in ("left", "right")
    for joint in ("waist", "shoulder", "elbow", "forearm roll", "wrist angle", "wrist rotate", "gripper")
)
_HALF_TURN = 3.0
_PER_STEP = 0.2
"""Radians that a joint follows in one step."""
_SIZE = (240, 320)
_LINKS = (46, 40, 34, 22, 16, 12)


class TwoArms(gymnasium.Env[dict[str, Any], Any]):
    metadata = {"render_fps": 20, "render_modes": ()}  # noqa: RUF012
    action_space = spaces.Box(-_HALF_TURN, _HALF_TURN, (JOINTS,), np.float32)
    observation_space = spaces.Dict(
        {
            "agent_pos": spaces.Box(-_HALF_TURN, _HALF_TURN, (JOINTS,), np.float32),
            "front": spaces.Box(0, 255, (*_SIZE, 3), np.uint8),
        }
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        super().reset(seed=seed)
        self._joints = self.np_random.uniform(-0.5, 0.5, JOINTS).astype(np.float32)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._joints += np.clip(action - self._joints, -_PER_STEP, _PER_STEP)
        return self._observe(), 0.0, False, False, {"is_success": False}

    def _observe(self) -> dict[str, Any]:
        picture = Image.new("RGB", _SIZE[::-1], (228, 232, 238))
        pen = ImageDraw.Draw(picture)
        for arm, (base, colour) in enumerate(((90, (21, 88, 192)), (230, (180, 83, 9)))):
            at, angle = np.array([base, 230.0]), np.pi / 2
            joints = self._joints[7 * arm : 7 * arm + 7]
            for joint, length in zip(joints, _LINKS, strict=False):
                angle += joint / 4
                to = at + length * np.array([np.cos(angle), -np.sin(angle)])
                pen.line((*at, *to), fill=colour, width=7)
                at = to
            radius = 5 + 2 * abs(float(joints[6]))
            pen.ellipse((*(at - radius), *(at + radius)), outline=colour, width=3)
        return {"agent_pos": self._joints.copy(), "front": np.asarray(picture)}


gymnasium.register("two_arms/TwoArms-v0", entry_point=TwoArms, max_episode_steps=100_000)


def main(run: Path) -> None:
    import logging

    from lwd.data.policies import PolicyPublisher
    from lwd.data.store import DirectoryStore
    from lwd.data.validation import EpisodeLimits
    from lwd.fleet.coordinator import Coordinator
    from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
    from lwd.fleet.nats_server import NatsServer
    from lwd.fleet.own_robots import gym_robots
    from lwd.models.checkpoint import policy_bytes
    from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
    from lwd.models.normalization import StateStatistics
    from lwd.models.vla import SmallVLA, VLAConfig
    from lwd.types import Task

    logging.basicConfig(level=logging.INFO)
    task = Task(
        name="two_arms", instructions=("wave",), heldout_instructions=(), sub_steps=("done",), time_limit=100_000,
        long_horizon=False,
    )  # fmt: skip
    labels = ", ".join(f'"{label}"' for label in LABELS)
    driving = f'{{"absolute": true, "measured": "agent_pos", "labels": [{labels}]}}'
    make = gym_robots("two_arms/TwoArms-v0", task, success=None, driving=driving)
    robot, _ = make(RobotSpec(robot_id="arms-0"))
    statistics = StateStatistics(mean=(0.0,) * JOINTS, std=(1.0,) * JOINTS)
    encoder = InstructionEncoder({"wave": np.ones(EMBEDDING_SIZE, np.float32)})
    config = VLAConfig(horizon=5, token_width=4, expert_width=8, expert_depth=1)
    policy = SmallVLA(robot.embodiment, config, statistics, encoder)
    store = DirectoryStore(run / "store")
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    coordinator = Coordinator(store, EpisodeLimits(embodiment=robot.embodiment))

    def coordinate() -> None:
        while True:
            coordinator.process(coordinator.unprocessed())
            time.sleep(0.2)

    threading.Thread(target=coordinate, daemon=True).start()
    with NatsServer(run / "nats"):
        run_robot_host(
            RobotHostConfig(run=run, host_id="host-0", robots=(RobotSpec(robot_id="arms-0"),), operator="none"),
            make=make,
            tasks=(task,),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
