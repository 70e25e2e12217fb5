"""An arm, a leader arm and a box of buttons built as LeRobot builds its own, with calls that can be made to fail.

A motor bus that knows whether its motors have torque, and where they were when they lost it; a camera; connecting opens
one after the other, `is_connected` is true when all are open, and disconnecting refuses before.
"""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lerobot.robots import Robot, RobotConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.teleoperators.utils import TeleopEvents
from lerobot.utils.bimanual import BimanualMixin
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from lwd.robots.lerobot import LeRobotConfig
from lwd.types import Embodiment, TokenSpec

JOINTS = ("shoulder.pos", "elbow.pos")
ARM = Embodiment(
    name="bus-arm", control_hz=100.0, state_tokens=(TokenSpec(name="state", size=2),),
    action_low=(-90.0, -90.0), action_high=(90.0, 90.0),
)  # fmt: skip


def config(**settings: object) -> LeRobotConfig:
    tasks = [{"name": "reach", "instructions": ["reach"], "time_limit_s": 0.1}]
    return LeRobotConfig.model_validate({"tasks": tasks, "home": [0.0, 0.0], "home_s": 0.05, **settings})


class Breaks:
    """Which calls fail, such as `camera.connect`: from which on, and how many."""

    def __init__(self, call: str = "", *, after: int = 0, times: float = 0) -> None:
        self.call, self.after, self.times = call, after, times
        self.counts: Counter[str] = Counter()
        self.broke = 0

    def __call__(self, call: str) -> None:
        self.counts[call] += 1
        if call == self.call and self.after < self.counts[call] and self.broke < self.times:
            self.broke += 1
            raise ConnectionError(f"{call}: there is no status packet")


class MotorBus:
    """Keeps torque and positions while nobody is connected, as motors do."""

    def __init__(self, owner: str, breaks: Breaks, motors: tuple[str, ...] = JOINTS) -> None:
        self._owner, self._breaks = owner, breaks
        self.motors = motors
        self.is_connected = False
        self.torque = False
        self.positions = dict.fromkeys(motors, 0.0)
        self.dropped: list[dict[str, float]] = []
        """Where the motors were whenever they lost their torque."""

    @check_if_already_connected
    def connect(self, handshake: bool = True) -> None:
        self.is_connected = True
        self._breaks(f"{self._owner}.connect")

    @check_if_not_connected
    def disconnect(self, disable_torque: bool = True) -> None:
        if disable_torque:
            # As LeRobot's: the port stays open if a packet is lost here.
            self._breaks(f"{self._owner}.disconnect")
            self.set_torque(False)
        self.is_connected = False

    def set_torque(self, on: bool) -> None:
        if self.torque and not on:
            self.dropped.append(dict(self.positions))
        self.torque = on

    @contextmanager
    def torque_disabled(self):
        self.set_torque(False)
        yield
        self.set_torque(True)

    @check_if_not_connected
    def sync_read(self, data_name: str, motors: Any = None, *, normalize: bool = True, num_retry: int = 0) -> dict:
        if data_name == "Torque_Enable":
            return dict.fromkeys(self.motors, int(self.torque))
        return dict(self.positions)


class Camera:
    def __init__(self, breaks: Breaks) -> None:
        self._breaks = breaks
        self.is_connected = False

    @check_if_already_connected
    def connect(self, warmup: bool = True) -> None:
        self._breaks("camera.connect")
        self.is_connected = True

    def read_latest(self) -> None:
        self._breaks("camera.observe")

    def disconnect(self) -> None:
        if not self.is_connected:
            raise ConnectionError("the camera is not connected")
        self._breaks("camera.disconnect")
        self.is_connected = False


@RobotConfig.register_subclass("bus_arm")
@dataclass(kw_only=True)
class BusArmConfig(RobotConfig):
    port: str = "/dev/arm"
    disable_torque_on_disconnect: bool = True
    calibrated: bool = True
    breaks: Breaks = field(default_factory=Breaks)


class BusArm(Robot):
    config_class = BusArmConfig
    name = "bus_arm"

    def __init__(self, config: BusArmConfig) -> None:
        super().__init__(config)
        self.config, self._breaks = config, config.breaks
        self.bus = MotorBus("robot", config.breaks)
        self.cameras = {"front": Camera(config.breaks)}

    @property
    def observation_features(self) -> dict[str, Any]:
        return dict.fromkeys(JOINTS, float)

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(JOINTS, float)

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected and all(camera.is_connected for camera in self.cameras.values())

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        self.bus.connect()
        if not self.is_calibrated and calibrate:
            self.calibrate()
        for camera in self.cameras.values():
            camera.connect()
        self.configure()

    @property
    def is_calibrated(self) -> bool:
        return self.config.calibrated

    def calibrate(self) -> None:
        input("Move the arm to the middle of its range of motion and press ENTER....")

    def configure(self) -> None:
        with self.bus.torque_disabled():
            pass
        self._breaks("robot.configure")

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        self._breaks("robot.observe")
        seen = self.bus.sync_read("Present_Position")
        for camera in self.cameras.values():
            camera.read_latest()
        return seen

    @check_if_not_connected
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._breaks("robot.act")
        if self.bus.torque:
            self.bus.positions = dict(action)
        return dict(action)

    @check_if_not_connected
    def disconnect(self) -> None:
        self.bus.disconnect(self.config.disable_torque_on_disconnect)
        for camera in self.cameras.values():
            camera.disconnect()

    @property
    def is_closed(self) -> bool:
        return not self.bus.is_connected and not any(camera.is_connected for camera in self.cameras.values())


@RobotConfig.register_subclass("two_bus_arms")
@dataclass(kw_only=True)
class TwoBusArmsConfig(RobotConfig):
    left: BusArmConfig
    right: BusArmConfig


class TwoBusArms(BimanualMixin, Robot):
    config_class = TwoBusArmsConfig
    name = "two_bus_arms"

    def __init__(self, config: TwoBusArmsConfig) -> None:
        super().__init__(config)
        self.config = config
        self.left_arm, self.right_arm = BusArm(config.left), BusArm(config.right)
        self.cameras = {**self.left_arm.cameras, **self.right_arm.cameras}

    @property
    def observation_features(self) -> dict[str, Any]:
        return {f"{side}_{joint}": float for side in ("left", "right") for joint in JOINTS}

    @property
    def action_features(self) -> dict[str, type]:
        return self.observation_features

    def get_observation(self) -> dict[str, Any]:
        raise NotImplementedError

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


@TeleoperatorConfig.register_subclass("bus_leader")
@dataclass(kw_only=True)
class BusLeaderConfig(TeleoperatorConfig):
    port: str = "/dev/leader"
    calibrated: bool = True
    breaks: Breaks = field(default_factory=Breaks)


class _Leader(Teleoperator):
    owner = "teleoperator"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.config, self._breaks = config, config.breaks
        self.bus = MotorBus(self.owner, config.breaks)

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(JOINTS, float)

    @property
    def feedback_features(self) -> dict[str, type]:
        return {}

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        self.bus.connect()
        if not self.is_calibrated and calibrate:
            self.calibrate()

    @property
    def is_calibrated(self) -> bool:
        return self.config.calibrated

    def calibrate(self) -> None:
        input("Move the leader to the middle of its range of motion and press ENTER....")

    def configure(self) -> None: ...

    @check_if_not_connected
    def get_action(self) -> dict[str, Any]:
        self._breaks(f"{self.owner}.observe")
        return self.bus.sync_read("Present_Position")

    def send_feedback(self, feedback: dict[str, Any]) -> None: ...

    @check_if_not_connected
    def disconnect(self) -> None:
        self.bus.disconnect()


class BusLeader(_Leader):
    config_class = BusLeaderConfig
    name = "bus_leader"


@TeleoperatorConfig.register_subclass("buttons")
@dataclass(kw_only=True)
class ButtonsConfig(BusLeaderConfig):
    pass


class Buttons(_Leader):
    """Says how an episode ends: never, so far."""

    config_class = ButtonsConfig
    name = "buttons"
    owner = "events"

    @check_if_not_connected
    def get_teleop_events(self) -> dict[TeleopEvents, bool]:
        self._breaks("events.observe")
        return {}
