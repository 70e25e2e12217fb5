"""A LeRobot robot that drives on with the last velocity it was sent, as bases do that have no watchdog of their own."""

import threading
import time
from dataclasses import dataclass
from typing import Any

from lerobot.robots import Robot, RobotConfig

OBSERVED = ("x.pos", "lift.pos", "gripper.pos", "spare0.pos", "spare1.pos", "spare2.pos")
ACTIONS = ("x.vel", "lift.pos")


@RobotConfig.register_subclass("wheeled_robot")
@dataclass(kw_only=True)
class WheeledRobotConfig(RobotConfig):
    pass


class WheeledRobot(Robot):
    config_class = WheeledRobotConfig
    name = "wheeled_robot"

    def __init__(self) -> None:
        super().__init__(WheeledRobotConfig(id="base"))
        self._connected = False
        self._moved_m = self._velocity = 0.0
        self._since_s = time.monotonic()
        self.lift = 0.5
        self.sent: list[dict[str, float]] = []
        self.goal = 0.0
        """Of what observes it beside itself."""
        self.broken = ""
        self.inside = threading.Lock()

    @property
    def moved_m(self) -> float:
        """Where its wheels have got to by now."""
        return self._moved_m + self._velocity * (time.monotonic() - self._since_s)

    @property
    def observation_features(self) -> dict[str, Any]:
        return dict.fromkeys(OBSERVED, float)

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(ACTIONS, float)

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

    def get_observation(self) -> dict[str, Any]:
        # A serial bus takes one transaction at a time.
        assert self.inside.acquire(blocking=False), "two threads are on the bus at once"
        try:
            time.sleep(0.001)
            if self.broken == "silent":
                raise ConnectionError("no status packet")
            return {
                **dict.fromkeys(OBSERVED, 0.0),
                "x.pos": self.moved_m,
                "lift.pos": self.lift,
                "spare1.pos": self.goal,
            }
        finally:
            self.inside.release()

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        assert self.inside.acquire(blocking=False), "two threads are on the bus at once"
        try:
            time.sleep(0.001)
            if self.broken == "dead":
                raise ConnectionError("no status packet")
            self._moved_m, self._since_s, self._velocity = self.moved_m, time.monotonic(), action["x.vel"]
            # As far as it gets in a control period.
            self.lift += 0.5 * (action["lift.pos"] - self.lift)
            self.sent.append(dict(action))
            return dict(action)
        finally:
            self.inside.release()

    def disconnect(self) -> None:
        self._connected = False
