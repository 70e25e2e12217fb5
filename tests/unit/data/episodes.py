"""Episodes for tests: random numbers of the right shapes."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from lwd.types import Embodiment, Episode, EpisodeInfo, Outcome, Source, TokenSpec

EMBODIMENT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="all", size=4),),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
)
WITH_CAMERA = replace(EMBODIMENT, cameras={"wrist": (6, 8)})


def frame(height: int = 6, width: int = 8, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def episode(number: int = 0, *, steps: int = 20, cameras: bool = False, **info) -> Episode:
    rng = np.random.default_rng(number)
    defaults = {
        "episode_id": f"episode-{number}",
        "robot_id": "robot-1",
        "embodiment": "toy",
        "task": "reach",
        "instruction": "go there",
        "source": Source.FLEET,
        "outcome": Outcome.SUCCESS,
        "policy_version": 3,
        "sub_step_scores": (1.0, 0.5),
        "control_hz": 10.0,
        "seed": number,
        "world": "nominal",
        "started_at_s": 1.5e9,
        "software_version": "0.1.0",
    }
    return Episode(
        info=EpisodeInfo(**(defaults | info)),
        states_TS=rng.normal(size=(steps + 1, 4)).astype(np.float32),
        actions_TA=rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        controllers_T=(rng.random(steps) < 0.3).astype(np.uint8),
        images={"wrist": tuple(frame(seed=step) for step in range(steps + 1))} if cameras else {},
    )
