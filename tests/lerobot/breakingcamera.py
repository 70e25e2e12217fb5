"""A camera that LeRobot makes itself by its type, as a plug-in's (by the name of this module), and that may fail."""

from dataclasses import dataclass

import numpy as np
from lerobot.cameras import Camera, CameraConfig

from .bus_arm import Breaks

HEIGHT, WIDTH = 4, 6


@CameraConfig.register_subclass("breaking")
@dataclass(kw_only=True)
class BreakingCameraConfig(CameraConfig):
    fps: int = 30
    width: int = WIDTH
    height: int = HEIGHT


class BreakingCamera(Camera):
    """Its calls fail as its class says."""

    breaks = Breaks()

    def __init__(self, config: BreakingCameraConfig) -> None:
        super().__init__(config)
        self.opened = False

    @property
    def is_connected(self) -> bool:
        return self.opened

    def connect(self, warmup: bool = True) -> None:
        self.breaks("camera.connect")
        self.opened = True

    @staticmethod
    def find_cameras() -> list:
        return []

    def read(self, color_mode=None):
        return np.zeros((HEIGHT, WIDTH, 3), np.uint8)

    async_read = read
    read_latest = read

    def disconnect(self) -> None:
        if not self.opened:
            raise ConnectionError("not connected")
        self.opened = False
