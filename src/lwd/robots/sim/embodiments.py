"""What the simulated robots are to a policy, as plain data: known without the simulator being installed."""

from typing import Literal

from lwd.types import Embodiment, TokenSpec

ObservationKind = Literal["state", "pixels"]

CONTROL_HZ = 20.0
ACTION_SIZE = 5
CAMERA_PIXELS = 64

_TOKENS = (
    TokenSpec(name="proprio", size=19),
    TokenSpec(name="cube", size=16),
    TokenSpec(name="button_0", size=9),
    TokenSpec(name="button_1", size=9),
    TokenSpec(name="drawer", size=10),
    TokenSpec(name="window", size=10),
)
_LOW, _HIGH = (-1.0,) * ACTION_SIZE, (1.0,) * ACTION_SIZE

STATE_EMBODIMENT = Embodiment(
    name="ogbench-scene",
    control_hz=CONTROL_HZ,
    state_tokens=_TOKENS,
    action_low=_LOW,
    action_high=_HIGH,
)
PIXEL_EMBODIMENT = Embodiment(
    name="ogbench-scene-pixels",
    control_hz=CONTROL_HZ,
    state_tokens=_TOKENS[:1],
    action_low=_LOW,
    action_high=_HIGH,
    cameras={"front": (CAMERA_PIXELS, CAMERA_PIXELS)},
)
SIMULATED = {embodiment.name: embodiment for embodiment in (STATE_EMBODIMENT, PIXEL_EMBODIMENT)}
"""All of them, by name."""
