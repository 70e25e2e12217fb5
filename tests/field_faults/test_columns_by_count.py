"""A3: an environment whose vectors are in another order, another rate or another camera passed, since counts agreed."""

from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lwd.errors import ConfigError
from lwd.robots.gym import GymRobot, GymSettings
from lwd.types import Embodiment, Task, TokenSpec

RUN = Embodiment(
    name="toy",
    control_hz=20.0,
    state_tokens=(TokenSpec(name="state", size=3), TokenSpec(name="effort", size=2)),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    cameras={"front": (48, 64)},
)
TASK = Task(
    name="count", instructions=("count",), heldout_instructions=(), sub_steps=(), time_limit=5, long_horizon=False
)


class Scene(gymnasium.Env):
    """Observes a Dict, which Gymnasium sorts by its keys: effort before state."""

    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, fps: float | None = 20, size: tuple[int, int] = (48, 64), vector: str = "state", nested: bool = False
    ) -> None:
        self.metadata = {} if fps is None else {"render_fps": fps}
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        picture = np.zeros((*size, 3), np.uint8)
        self.parts = {
            "effort": np.array([10, 11], np.float32),
            vector: np.array([1, 2, 3], np.float32),
            **({"pixels": {"front": picture}} if nested else {"front": picture}),
        }
        seen = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                "effort": spaces.Box(-99, 99, (2,), np.float32),
                vector: spaces.Box(-99, 99, (3,), np.float32),
                **({"pixels": spaces.Dict({"front": seen})} if nested else {"front": seen}),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.parts, {}

    def step(self, action: Any) -> Any:
        return self.parts, 0.0, False, False, {"is_success": False}


def robot(run: Embodiment = RUN, **scene: Any) -> GymRobot:
    return GymRobot(lambda _: Scene(**scene), (TASK,), GymSettings(name="scene", embodiment=run))


@pytest.mark.parametrize("scene", [{}, {"vector": "agent_pos"}, {"fps": None}, {"nested": True}, {"size": (96, 128)}])
def test_vectors_are_read_in_the_runs_order(scene):
    made = robot(**scene)
    for observation in (made.reset(TASK, 0), made.step(np.zeros(2, np.float32)).observation):
        assert observation.state.tolist() == [1, 2, 3, 10, 11]
        assert {name: picture.shape for name, picture in observation.images.items()} == {"front": (48, 64, 3)}


@pytest.mark.parametrize(
    ("run", "scene", "said"),
    [
        (RUN, {"vector": "pose"}, r"the state is effort \(2\), pose \(3\), the run's is state \(3\), effort \(2\)"),
        (RUN, {"fps": 50}, r"the rate is 50 Hz, the run's is 20 Hz: .*--control-hz 20.* recorded at 50"),
        (RUN, {"size": (64, 64)}, "camera front is 64x64 .*, the run's front is 48x64: it would be squeezed"),
        (replace(RUN, cameras={"wrist": (48, 64)}), {}, "cameras are front 48x64, the run's wrist 48x64"),
    ],
)
def test_what_differs_is_refused_at_the_start(run, scene, said):
    with pytest.raises(ConfigError, match=said):
        robot(run, **scene)


def test_the_remedy_for_another_rate_works():
    settings = GymSettings(name="scene", embodiment=RUN, control_hz=20)
    assert GymRobot(lambda _: Scene(fps=50), (TASK,), settings).embodiment.control_hz == 20
