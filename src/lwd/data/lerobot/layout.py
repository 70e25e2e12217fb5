"""What the features of a LeRobotDataset are to us: state tokens, one action, cameras."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lwd.data.episode_file import NAME_PATTERN
from lwd.errors import ConfigError
from lwd.types import Embodiment, FloatArray, TokenSpec

ACTION = "action"
_OBSERVATION = "observation."
_IMAGES = "observation.images."
_PICTURES = ("image", "video")
INTERVENTION_COLUMNS = ("controller", "intervention", "is_intervention", "complementary_info.is_intervention")
"""Where recorders write who acted; the first that is there is read."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One feature of numbers."""

    key: str
    size: int

    @property
    def token(self) -> str:
        return self.key.removeprefix(_OBSERVATION)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One feature of pictures."""

    key: str
    height: int
    width: int

    @property
    def name(self) -> str:
        return self.key.removeprefix(_IMAGES).removeprefix(_OBSERVATION)


@dataclass(frozen=True, kw_only=True)
class DatasetLayout:
    """The part of a dataset that becomes episodes."""

    fps: float
    state: tuple[Column, ...]
    action: Column
    cameras: tuple[Camera, ...]
    controller: str | None
    """The column that says who acted; None: it is not recorded."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Feature -> why it does not come in."""

    @property
    def state_size(self) -> int:
        return sum(column.size for column in self.state)


def layout_of(
    features: Mapping[str, Mapping[str, Any]], fps: float, *, state: Sequence[str] = (), controller: str | None = None
) -> DatasetLayout:
    """Read a layout from the features of meta/info.json.

    Args:
        state: the features that make up the state, in this order; none: every vector of numbers below `observation.`.
        controller: the column that says who acted; None: a usual one, if there is one.
    Raises:
        ConfigError: naming the feature that is missing or cannot be used.
    """
    left_out: dict[str, str] = {}
    columns: list[Column] = []
    cameras: list[Camera] = []
    for key, feature in features.items():
        if not key.startswith(_OBSERVATION) or (state and key not in state and feature["dtype"] not in _PICTURES):
            continue
        if feature["dtype"] in _PICTURES:
            found = _camera(key, feature)
            if isinstance(found, str):
                left_out[key] = found
            else:
                cameras.append(found)
        elif (size := _vector(feature)) is not None:
            columns.append(Column(key=key, size=size))
        else:
            left_out[key] = f"it is {feature['dtype']} of shape {list(feature['shape'])}, no vector of numbers"
    if missing := [key for key in state if key not in features]:
        raise ConfigError(f"state feature {missing[0]!r} is not in the dataset; it has: {', '.join(features)}")
    if unusable := [key for key in state if key in left_out]:
        raise ConfigError(f"state feature {unusable[0]!r} cannot be used: {left_out[unusable[0]]}")
    if not columns:
        raise ConfigError(f"the dataset has no state: name vectors of numbers with --state; it has {_listed(features)}")
    if ACTION not in features or (action_size := _vector(features[ACTION])) is None:
        raise ConfigError(f"the dataset has no vector `{ACTION}`: rename its column; it has {_listed(features)}")
    if controller is not None and controller not in features:
        raise ConfigError(f"intervention column {controller!r} is not in the dataset; it has {_listed(features)}")
    order = {key: number for number, key in enumerate(state)}
    return DatasetLayout(
        fps=fps,
        state=tuple(sorted(columns, key=lambda column: order.get(column.key, 0))),
        action=Column(key=ACTION, size=action_size),
        cameras=tuple(cameras),
        controller=controller or next((name for name in INTERVENTION_COLUMNS if name in features), None),
        left_out=left_out,
    )


def derived_embodiment(
    layout: DatasetLayout,
    actions_NA: FloatArray,
    *,
    name: str,
    control_hz: float,
    image_size: tuple[int, int] | None,
) -> Embodiment:
    """Describe the robot of a dataset by what was recorded.

    The limits are the extremes of the recorded actions: a policy will not command what no recording shows. Widen them
    in the written file where the robot may do more.

    Args:
        actions_NA: all recorded actions; columns that never change get limits of +-1 around their value.
        image_size: (height, width) of the stored frames; None: as recorded.
    """
    finite_NA = np.isfinite(actions_NA)
    low_A = np.where(finite_NA, actions_NA, np.inf).min(axis=0, initial=np.inf)
    high_A = np.where(finite_NA, actions_NA, -np.inf).max(axis=0, initial=-np.inf)
    # Without a single finite number nothing comes in; the file must be valid all the same.
    low_A, high_A = np.where(low_A > high_A, 0.0, low_A), np.where(low_A > high_A, 0.0, high_A)
    still_A = low_A == high_A
    low_A, high_A = np.where(still_A, low_A - 1, low_A), np.where(still_A, high_A + 1, high_A)
    return Embodiment(
        name=name,
        control_hz=control_hz,
        state_tokens=tuple(TokenSpec(name=column.token, size=column.size) for column in layout.state),
        action_low=tuple(low_A.tolist()),
        action_high=tuple(high_A.tolist()),
        cameras={camera.name: image_size or (camera.height, camera.width) for camera in layout.cameras},
    )


def mismatches(layout: DatasetLayout, embodiment: Embodiment, control_hz: float) -> list[str]:
    """Return in words why the dataset's episodes do not fit an embodiment; nothing if they do."""
    found = []
    if layout.state_size != embodiment.state_size:
        tokens = ", ".join(f"{column.key} ({column.size})" for column in layout.state)
        found.append(f"the state has {layout.state_size} numbers ({tokens}), the embodiment {embodiment.state_size}")
    if layout.action.size != embodiment.action_size:
        found.append(f"the action has {layout.action.size} numbers, the embodiment {embodiment.action_size}")
    if (cameras := sorted(camera.name for camera in layout.cameras)) != sorted(embodiment.cameras):
        found.append(f"the cameras are {cameras}, the embodiment's {sorted(embodiment.cameras)}")
    if abs(control_hz - embodiment.control_hz) > 1e-6 * embodiment.control_hz:
        found.append(
            f"the rate is {control_hz:g} Hz, the embodiment's {embodiment.control_hz:g}: give --control-hz "
            f"{embodiment.control_hz:g}"
        )
    return found


def stride_for(fps: float, control_hz: float | None) -> int:
    """Return how many recorded frames make one control step.

    Raises:
        ConfigError: if the rate is not a whole part of the recording's.
    """
    if control_hz is None:
        return 1
    stride = round(fps / control_hz) if control_hz > 0 else 0
    if stride < 1 or abs(stride * control_hz - fps) > 1e-6 * fps:
        raise ConfigError(
            f"control_hz is {control_hz:g}, the dataset was recorded at {fps:g}: give that divided by a whole number "
            "(nothing is interpolated)"
        )
    return stride


def _vector(feature: Mapping[str, Any]) -> int | None:
    shape = tuple(feature["shape"])
    if len(shape) != 1 or shape[0] < 1 or not str(feature["dtype"]).startswith(("float", "int", "uint", "bool")):
        return None
    return int(shape[0])


def _camera(key: str, feature: Mapping[str, Any]) -> Camera | str:
    """Return the camera, or why it cannot be used."""
    shape = [int(side) for side in feature["shape"]]
    info = feature.get("info") or feature.get("video_info") or {}
    if info.get("is_depth_map") or info.get("video.is_depth_map"):
        return "it is a depth map; frames are RGB"
    if len(shape) == 3 and shape[-1] == 3:
        camera = Camera(key=key, height=shape[0], width=shape[1])
    elif len(shape) == 3 and shape[0] == 3:
        camera = Camera(key=key, height=shape[1], width=shape[2])
    else:
        return f"its shape is {shape}; frames are RGB"
    if not re.match(NAME_PATTERN, camera.name):
        return f"{camera.name!r} is no name of a camera: it must match {NAME_PATTERN}"
    return camera


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(features)
