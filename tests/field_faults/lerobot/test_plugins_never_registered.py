"""LeRobot's plug-ins bring robots, teleoperators and cameras; one that is broken costs only itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lerobot.cameras import CameraConfig

from lwd.errors import ConfigError
from lwd.robots.lerobot_devices import make_device, make_teleoperator
from lwd.robots.lerobot_plugins import load_plugins

ROBOT = """
from dataclasses import dataclass
from lerobot.robots import Robot, RobotConfig

@RobotConfig.register_subclass("{kind}")
@dataclass
class {name}Config(RobotConfig):
    port: str = ""

class {name}(Robot):
    config_class = {name}Config
    name = "{kind}"
    def __init__(self, config):
        super().__init__(config)
        self.config = config
    observation_features = action_features = {{"joint.pos": float}}
    is_connected = is_calibrated = False
    def connect(self, calibrate=True): ...
    def calibrate(self): ...
    def configure(self): ...
    def get_observation(self): return {{"joint.pos": 0.0}}
    def send_action(self, action): return action
    def disconnect(self): ...
"""
TELEOPERATOR = """
from dataclasses import dataclass
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

@TeleoperatorConfig.register_subclass("{kind}")
@dataclass
class {name}Config(TeleoperatorConfig):
    pass

class {name}(Teleoperator):
    config_class = {name}Config
    name = "{kind}"
    def __init__(self, config):
        super().__init__(config)
        self.config = config
    action_features = {{"joint.pos": float}}
    feedback_features = {{}}
    is_connected = is_calibrated = False
    def connect(self, calibrate=True): ...
    def calibrate(self): ...
    def configure(self): ...
    def get_action(self): return {{"joint.pos": 0.0}}
    def send_feedback(self, feedback): ...
    def disconnect(self): ...
"""


def install(site: Path, distribution: str, code: str) -> None:
    """Put a package into a site directory as pip leaves it."""
    module = distribution.replace("-", "_")
    (site / module).mkdir(parents=True)
    (site / module / "__init__.py").write_text(code)
    information = site / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (information / "RECORD").write_text(f"{module}/__init__.py,,\n")
    (information / "INSTALLER").write_text("pip\n")


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins.cache_clear()
    yield tmp_path
    load_plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("lerobot_robot_", "lerobot_teleoperator_"))]:
        del sys.modules[name]


def test_a_plugins_robot_and_teleoperator_are_found_beside_broken_ones(site, caplog):
    # By name the broken ones come first.
    install(site, "lerobot_robot_aaa", "import a_driver_that_is_missing")
    install(site, "lerobot_robot_aab", "raise SystemExit('this driver wants a licence')")
    install(site, "lerobot_robot_xyz", ROBOT.format(kind="xyz_arm", name="XyzArm"))
    # As most of them are published: LeRobot itself looks for underscores only.
    install(site, "lerobot-robot-hyphened", ROBOT.format(kind="hyphened_arm", name="HyphenedArm"))
    install(site, "lerobot_teleoperator_xyz", TELEOPERATOR.format(kind="xyz_leader", name="XyzLeader"))
    assert make_device("xyz_arm", {"id": "a", "port": "/dev/x"}).config.port == "/dev/x"
    assert make_device("hyphened_arm", {"id": "b"}).name == "hyphened_arm"
    assert make_teleoperator({"type": "xyz_leader", "id": "c"}).name == "xyz_leader"
    assert "plug-in lerobot_robot_aaa cannot be loaded (ModuleNotFoundError: No module named 'a_driver" in caplog.text
    assert "plug-in lerobot_robot_aab cannot be loaded (SystemExit: this driver wants a licence)" in caplog.text
    # Loaded once, whoever asks.
    assert caplog.text.count("lerobot_robot_aaa cannot be loaded") == 1
    unknown = r"LeRobot has no robot 'xyz'; it has: .*xyz_arm.* \(plug-ins that cannot be loaded: lerobot_robot_aaa, "
    with pytest.raises(ConfigError, match=unknown):
        make_device("xyz", {})
    with pytest.raises(ConfigError, match=r"LeRobot has no teleoperator 'xyz'; it has: .*xyz_leader"):
        make_teleoperator({"type": "xyz"})


def test_cameras_of_lerobot_are_known():
    """A robot's configuration names them by their types; two of four were not registered."""
    make_device("so101", {"port": "/dev/null", "id": "x"})
    assert CameraConfig.get_known_choices().keys() >= {"opencv", "intelrealsense", "zmq", "reachy2_camera"}
