"""A LeRobot robot and a leader arm without hardware: joints that follow their targets at a limited speed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.teleoperators.utils import TeleopEvents

JOINTS = ("shoulder.pos", "elbow.pos", "gripper.pos")
HEIGHT, WIDTH = 24, 32


@RobotConfig.register_subclass("joint_robot")
@dataclass(kw_only=True)
class JointRobotConfig(RobotConfig):
    max_relative_target: float | None = None
    speed: float = 5.0
    """Degrees that a joint moves per command."""
    camera: bool = True


class JointRobot(Robot):
    config_class = JointRobotConfig
    name = "joint_robot"

    def __init__(self, config: JointRobotConfig) -> None:
        super().__init__(config)
        self.config = config
        self._connected = False
        self.positions = np.zeros(len(JOINTS))
        self.broken = ""
        self.connections = 0

    @property
    def observation_features(self) -> dict[str, Any]:
        cameras = {"front": (HEIGHT, WIDTH, 3)} if self.config.camera else {}
        return {**dict.fromkeys(JOINTS, float), **cameras}

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(JOINTS, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate, "a robot host must not ask questions at a terminal"
        self._connected = True
        self.connections += 1

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        if self.broken == "lost":
            self._connected = False
            raise ConnectionError("no status packet")
        seen: dict[str, Any] = dict(zip(JOINTS, map(float, self.positions), strict=True))
        if self.broken == "nan":
            seen["elbow.pos"] = float("nan")
        if self.config.camera:
            shade = int(np.clip(128 + self.positions[0], 0, 255))
            seen["front"] = np.full((HEIGHT, WIDTH, 3), shade, np.uint8)
        return seen

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        target = np.array([action[joint] for joint in JOINTS])
        if (limit := self.config.max_relative_target) is not None:
            target = self.positions + np.clip(target - self.positions, -limit, limit)
        self.positions = self.positions + np.clip(target - self.positions, -self.config.speed, self.config.speed)
        return dict(zip(JOINTS, map(float, target), strict=True))

    def disconnect(self) -> None:
        self._connected = False


@TeleoperatorConfig.register_subclass("joint_leader")
@dataclass(kw_only=True)
class JointLeaderConfig(TeleoperatorConfig):
    with_events: bool = False


class JointLeader(Teleoperator):
    """A leader arm that a test moves; with events it also is a device like LeRobot's gamepad."""

    config_class = JointLeaderConfig
    name = "joint_leader"

    def __init__(self, config: JointLeaderConfig) -> None:
        super().__init__(config)
        self._connected = False
        self.pose = dict.fromkeys(JOINTS, 0.0)
        self.events: dict[TeleopEvents, bool] = {}
        if config.with_events:
            self.get_teleop_events = lambda: self.events

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(JOINTS, float)

    @property
    def feedback_features(self) -> dict[str, type]:
        return {}

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_action(self) -> dict[str, Any]:
        return dict(self.pose)

    def send_feedback(self, feedback: dict[str, Any]) -> None: ...

    def disconnect(self) -> None:
        self._connected = False
