"""Environments without a slash in their id, registered by a module, a package or by Gymnasium itself (row 26)."""

import gymnasium
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.fleet.host_process import RobotSpec
from lwd.fleet.own_robots import gym_robots, gym_task, import_modules

MODULE = """
import gymnasium
import numpy as np

class Small(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {"is_success": True}

gymnasium.register("NAME", entry_point=Small, max_episode_steps=7)
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Modules that register environments when they are imported."""
    names = {
        "bare_arm": "BareReach-v3",
        "spaced_arm": "spaced_arm/Push_Cube-v0",
        "foreign_arm": "Elsewhere/Lift-v1",
        "deep_arm/tasks": "Deep-v0",
    }
    for module, name in names.items():
        path = tmp_path / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(MODULE.replace("NAME", name))
    (tmp_path / "broken_arm.py").write_text("raise OSError('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in names.values():
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize(
    ("given", "imports", "name", "said", "robot"),
    [
        ("bare_arm:BareReach-v3", (), "BareReach", "bare reach", "BareReach-v3"),
        ("BareReach-v3", ("bare_arm",), "BareReach", "bare reach", "BareReach-v3"),
        ("spaced_arm/Push_Cube-v0", (), "Push_Cube", "push cube", "spaced_arm-Push_Cube-v0"),
        ("Elsewhere/Lift-v1", ("foreign_arm",), "Lift", "lift", "Elsewhere-Lift-v1"),
        ("foreign_arm:Elsewhere/Lift-v1", (), "Lift", "lift", "Elsewhere-Lift-v1"),
        ("deep_arm.tasks:Deep-v0", (), "Deep", "deep", "Deep-v0"),
    ],
)
def test_an_environment_is_found_by_its_id(packages, monkeypatch, given, imports, name, said, robot):
    for module in ("bare_arm", "spaced_arm", "foreign_arm", "deep_arm.tasks"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    import_modules(imports)
    task = gym_task(given)
    assert (task.name, task.instructions, task.time_limit) == (name, (said,), 7)
    made, _ = gym_robots(given, task, success=None)(RobotSpec(robot_id="r"))
    assert made.embodiment.name == robot
    made.reset(task, 0)
    assert made.step(np.zeros(1, np.float32)).outcome is not None
    made.close()


def test_gymnasiums_own_need_no_import():
    task = gym_task("Pendulum-v1", 30)
    assert (task.name, task.time_limit) == ("Pendulum", 30)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("FetchReach-v99", r"gym 'FetchReach-v99' is not known .*--gym MODULE:FetchReach-v99 or with --import MODULE"),
        ("nowhere/Push-v0", r"gym 'nowhere/Push-v0' is not known .*--gym MODULE:nowhere/Push-v0 or with --import"),
        ("no_such_module:Push-v0", "import 'no_such_module' failed .ModuleNotFoundError.*PYTHONPATH"),
        ("broken_arm:Push-v0", "import 'broken_arm' failed .OSError: no driver"),
        ("broken_arm/Push-v0", "import 'broken_arm' failed .OSError: no driver"),
        ("..:Push-v0", r"import '\.\.' failed"),
        ("Push v0!", "gym 'Push v0!' is not known"),
    ],
)
def test_an_unknown_environment_is_named_with_both_remedies(packages, given, message):
    with pytest.raises(ConfigError, match=message):
        gym_task(given)
