"""What the features of a LeRobotDataset are to us: state tokens, one action, cameras."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lwd.data.episode_file import NAME_PATTERN
from lwd.data.lerobot.action_limits import Limits, limits_of
from lwd.errors import ConfigError
from lwd.matching import Match, as_recorded, differences, match
from lwd.types import Embodiment, FloatArray, TokenSpec

ACTION = "action"
STATE = "observation.state"
OBSERVATION = "observation."
IMAGES = "observation.images."
_PICTURES = ("image", "video")
INTERVENTION_COLUMNS = ("controller", "intervention", "is_intervention", "complementary_info.is_intervention")
"""Where recorders write who acted; the first that is there is read."""
DESCRIPTION = "lwd.episode"
"""Column in which our exporter leaves an episode's description, in its first frame."""
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""LeRobot's own columns."""
_RATE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Column:
    """One feature of numbers."""

    key: str
    size: int
    names: tuple[str, ...] = ()
    """Of its entries; empty where nobody named them."""

    @property
    def token(self) -> str:
        return self.key.removeprefix(OBSERVATION)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One feature of pictures."""

    key: str
    height: int
    width: int
    name: str
    """What the run calls it."""


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
    order: Match | None = None
    """How its numbers come into the run's order; None: they are in it."""

    def as_embodiment(self, *, name: str, control_hz: float) -> Embodiment:
        """Describe the robot of the dataset, with limits of actions that say nothing."""
        return Embodiment(
            name=name,
            control_hz=control_hz,
            state_tokens=tuple(TokenSpec(name=c.token, size=c.size, names=c.names) for c in self.state),
            action_low=(-1.0,) * self.action.size,
            action_high=(1.0,) * self.action.size,
            cameras={camera.name: (camera.height, camera.width) for camera in self.cameras},
            action_names=self.action.names,
        )

    def recorded_state_of(self, state_TS: FloatArray) -> FloatArray:
        """Bring the run's states into the order of the state's columns, side by side."""
        return state_TS if self.order is None else self.order.state_to_robot(state_TS)

    def recorded_action_of(self, action_TA: FloatArray) -> FloatArray:
        """Bring the run's actions into the order of the action's column."""
        return action_TA if self.order is None else self.order.action_to_robot(action_TA)

    def state_of(self, recorded_NS: FloatArray) -> FloatArray:
        """Bring the state's columns, side by side, into the run's order."""
        return recorded_NS if self.order is None else self.order.state(recorded_NS)

    def action_of(self, recorded_NA: FloatArray) -> FloatArray:
        """Bring actions into the run's order."""
        return recorded_NA if self.order is None else self.order.action_from_robot(recorded_NA)


def layout_of(
    features: Mapping[str, Mapping[str, Any]],
    fps: float,
    *,
    state: Sequence[str] = (),
    controller: str | None = None,
    label: str | None = None,
    run: Embodiment | None = None,
) -> DatasetLayout:
    """Read a layout from the features of meta/info.json.

    Args:
        state: the features that make up the state, in this order; none: those that the run's tokens are called after,
            else `observation.state`, else the only vector of numbers below `observation.`.
        controller: the column that says who acted; None: a usual one, if there is one.
        label: the column that says how episodes ended: it is read, and not left out.
        run: what the run is about, if that is known: numbers are read in its order.
    Raises:
        ConfigError: naming the feature that is missing or cannot be used.
    """
    if ACTION not in features or (action := _vector(ACTION, features[ACTION])) is None:
        raise ConfigError(f"the dataset has no vector `{ACTION}`: rename its column; it has {_listed(features)}")
    if controller is not None and controller not in features:
        raise ConfigError(f"intervention column {controller!r} is not in the dataset; it has {_listed(features)}")
    controller = controller or next((name for name in INTERVENTION_COLUMNS if name in features), None)
    columns = _state_columns(features, state, run)
    cameras = {key: _camera(key, feature) for key, feature in features.items() if _is_camera(key, feature)}
    read = {ACTION, controller, label, DESCRIPTION, *BOOKKEEPING, *(column.key for column in columns)}
    reasons = {key: found for key, found in cameras.items() if isinstance(found, str)}
    reasons |= {
        key: _reason(key, feature, columns)
        for key, feature in features.items()
        if key not in read and key not in cameras
    }
    found = DatasetLayout(
        fps=fps,
        state=columns,
        action=action,
        cameras=tuple(camera for camera in cameras.values() if isinstance(camera, Camera)),
        controller=controller,
        left_out={key: reasons[key] for key in features if key in reasons},
    )
    return found if run is None else _in_order_of(found, run)


def derived_embodiment(
    layout: DatasetLayout,
    actions_NA: FloatArray,
    *,
    name: str,
    control_hz: float,
    image_size: tuple[int, int] | None,
    limits: Mapping[int, Limits] | None = None,
) -> Embodiment:
    """Describe the robot of a dataset by what was recorded.

    Args:
        actions_NA: all recorded actions: limits are theirs with a margin (`lwd.data.lerobot.action_limits`).
        image_size: (height, width) of the stored frames; None: as recorded.
        limits: of columns for which they are given.
    """
    derived, _ = limits_of(actions_NA)
    chosen = [(limits or {}).get(column, pair) for column, pair in enumerate(derived)]
    recorded = {camera.name: (camera.height, camera.width) for camera in layout.cameras}
    return replace(
        layout.as_embodiment(name=name, control_hz=control_hz),
        action_low=tuple(low for low, _ in chosen),
        action_high=tuple(high for _, high in chosen),
        cameras={camera: image_size or size for camera, size in recorded.items()},
        recorded_cameras={
            camera: size
            for camera, size in recorded.items()
            if image_size is not None and size[0] * image_size[1] != size[1] * image_size[0]
        },
    )


def mismatches(layout: DatasetLayout, embodiment: Embodiment, control_hz: float) -> list[str]:
    """Return in words why the dataset's episodes do not fit an embodiment; nothing if they do."""
    found = layout.as_embodiment(name="the dataset", control_hz=control_hz)
    if layout.order is not None:
        # It was read in this order because it fits.
        found = replace(found, state_tokens=embodiment.state_tokens, action_names=embodiment.action_names)
    sentences = list(differences(embodiment, found, rate=False))
    wanted = embodiment.control_hz
    if abs(control_hz - wanted) > _RATE_TOLERANCE * wanted:
        remedy = (
            f"give --control-hz {wanted:g}"
            if wanted <= layout.fps * (1 + _RATE_TOLERANCE)
            else "frames that were not recorded cannot be made up; import it into a run of its own"
        )
        sentences.append(f"the rate is {control_hz:g} Hz, the run's is {wanted:g} Hz: {remedy}")
    return sentences


def stride_for(fps: float, control_hz: float | None) -> float:
    """Return how many recorded frames make one control step, 1 or more; not always a whole number.

    Raises:
        ConfigError: if the rate is above the recording's, or not above 0.
    """
    if control_hz is None:
        return 1.0
    if not 0 < control_hz <= fps * (1 + _RATE_TOLERANCE):
        raise ConfigError(
            f"control_hz is {control_hz:g}, the dataset was recorded at {fps:g}: give that or less (frames that were "
            "not recorded cannot be made up)"
        )
    stride = fps / control_hz
    return float(round(stride)) if abs(stride - round(stride)) <= _RATE_TOLERANCE * stride else stride


def _in_order_of(layout: DatasetLayout, run: Embodiment) -> DatasetLayout:
    """Return the layout that is read in the run's order; as it is where it does not fit (`mismatches` says why)."""
    found = layout.as_embodiment(name="the dataset", control_hz=run.control_hz)
    if differences(run, found, rate=False):
        return layout
    order = match(run, found)
    ours = {theirs: name for name, theirs in order.cameras.items()}
    return replace(
        layout, order=order, cameras=tuple(replace(camera, name=ours[camera.name]) for camera in layout.cameras)
    )


def _state_columns(
    features: Mapping[str, Mapping[str, Any]], state: Sequence[str], known: Embodiment | None
) -> tuple[Column, ...]:
    vectors = {
        key: column
        for key, feature in features.items()
        if key.startswith(OBSERVATION) and (column := _vector(key, feature)) is not None
    }
    for key in state:
        if key not in features:
            raise ConfigError(f"state feature {key!r} is not in the dataset; it has: {_listed(features)}")
        if (column := _vector(key, features[key])) is None:
            raise ConfigError(f"state feature {key!r} cannot be used: {_form(features[key])}")
        vectors[key] = column
    chosen = list(state)
    if not chosen and known is not None:
        keys = [OBSERVATION + as_recorded(token.name) for token in known.state_tokens]
        chosen = keys if all(key in vectors for key in keys) else []
    if not chosen:
        chosen = [STATE] if STATE in vectors else list(vectors)
        if len(chosen) != 1:
            raise ConfigError(
                f"the dataset has no {STATE}"
                + (f" but {_listed(vectors)}: name the state's with --state" if vectors else _NO_VECTORS)
                + f"; it has {_listed(features)}"
            )
    return tuple(vectors[key] for key in chosen)


_NO_VECTORS = ", so it has no state: name vectors of numbers with --state"


def _reason(key: str, feature: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """Return why a feature that is read by nobody is left out, with its columns."""
    column = _vector(key, feature)
    if key.startswith(OBSERVATION) and column is not None:
        what = f"{column.size} numbers" + (f" ({', '.join(column.names)})" if column.names else "")
        return f"{what} that are not chosen: --state {' '.join(c.key for c in columns)} {key} makes them part of it"
    if key.startswith("next."):
        return f"{_form(feature)}; how episodes ended is read from the column that --label-column names"
    return f"{_form(feature)}; only the state, the cameras and `{ACTION}` are read"


def _form(feature: Mapping[str, Any]) -> str:
    names = f" ({', '.join(found)})" if (found := names_of(feature)) else ""
    is_vector = len(feature["shape"]) == 1
    return f"it is {feature['dtype']} of shape {list(feature['shape'])}{names}" + (
        "" if is_vector else ", no vector of numbers"
    )


def names_of(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a vector's entries, as any version of LeRobot wrote them; empty if there are none.

    They are a list, a list below one key ({"motors": [...]}), or numbers by name ({"delta_x": 0, ...}).
    """
    names: Any = feature.get("names")
    if isinstance(names, Mapping):
        inner = list(names.values())
        if len(inner) == 1 and isinstance(inner[0], list | tuple):
            names = inner[0]
        elif sorted(map(str, inner)) == sorted(map(str, range(len(inner)))):
            names = sorted(names, key=lambda name: int(names[name]))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    size = int(feature["shape"][0]) if len(feature["shape"]) == 1 else -1
    return tuple(names) if len(names) == size == len(set(names)) else ()


def _vector(key: str, feature: Mapping[str, Any]) -> Column | None:
    shape = tuple(feature["shape"])
    if len(shape) != 1 or shape[0] < 1 or not str(feature["dtype"]).startswith(("float", "int", "uint", "bool")):
        return None
    return Column(key=key, size=int(shape[0]), names=names_of(feature))


def _is_camera(key: str, feature: Mapping[str, Any]) -> bool:
    return key.startswith(OBSERVATION) and feature["dtype"] in _PICTURES


def _camera(key: str, feature: Mapping[str, Any]) -> Camera | str:
    """Return the camera, or why it cannot be used."""
    shape = [int(side) for side in feature["shape"]]
    info = feature.get("info") or feature.get("video_info") or {}
    name = key.removeprefix(IMAGES).removeprefix(OBSERVATION)
    if info.get("is_depth_map") or info.get("video.is_depth_map"):
        return "it is a depth map; frames are RGB"
    if len(shape) == 3 and shape[-1] == 3:
        camera = Camera(key=key, height=shape[0], width=shape[1], name=name)
    elif len(shape) == 3 and shape[0] == 3:
        camera = Camera(key=key, height=shape[1], width=shape[2], name=name)
    else:
        return f"its shape is {shape}; frames are RGB"
    if not re.match(NAME_PATTERN, name):
        return f"{name!r} is no name of a camera: it must match {NAME_PATTERN}"
    return camera


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(features)
