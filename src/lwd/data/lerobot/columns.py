"""The columns of a dataset that episodes are written to: ours, or those of another dataset."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwd.data.frames import decode_frame
from lwd.data.lerobot.importing import description_of
from lwd.data.lerobot.layout import (
    ACTION,
    BOOKKEEPING,
    DESCRIPTION,
    IMAGES,
    INTERVENTION_COLUMNS,
    OBSERVATION,
    STATE,
    DatasetLayout,
    layout_of,
    mismatches,
)
from lwd.errors import ConfigError
from lwd.matching import as_recorded, flat_names
from lwd.types import Controller, Embodiment, Episode, FloatArray, Outcome, TokenSpec

ValueOf = Callable[[Episode], FloatArray]
"""Episode -> (T + 1,), the value of every observation."""
Feature = Mapping[str, Any]
Cell = Callable[[Episode, int, FloatArray | None], Any]
"""(episode, row of T + 1, its values) -> what the column has there."""
_REWARD, _SUCCESS, _DONE, _OUTCOME, _VALUE = "next.reward", "next.success", "next.done", "outcome", "value"


@dataclass(frozen=True, kw_only=True)
class WrittenColumns:
    """Features as LeRobot describes them, and what they hold."""

    robot_type: str | None
    features: Mapping[str, Feature]
    cells: Mapping[str, Cell]

    def frame(self, episode: Episode, row: int, values_T: FloatArray | None) -> dict[str, Any]:
        """Return what every column has in a row."""
        return {key: _cast(cell(episode, row, values_T), self.features[key]) for key, cell in self.cells.items()}


def own_columns(embodiment: Embodiment, *, lossless: bool, with_value: bool) -> WrittenColumns:
    """Return columns of our choice: LeRobot's, with the names of the run's entries, and what we know besides.

    Every token is a column called after it if one of them is the `state`; else all are side by side in
    `observation.state`, which LeRobot's policies read.
    """
    features: dict[str, Feature] = {}
    cells: dict[str, Cell] = {}
    for key, size, names, begin in _state_columns(embodiment.state_tokens):
        features[key] = {"dtype": "float32", "shape": (size,), "names": names}
        cells[key] = _state_cell(slice(begin, begin + size))
    actions = list(embodiment.action_names) or [f"action_{number}" for number in range(embodiment.action_size)]
    features[ACTION] = {"dtype": "float32", "shape": (embodiment.action_size,), "names": actions}
    cells[ACTION] = lambda episode, row, _: episode.actions_TA[min(row, episode.steps - 1)]
    one: dict[str, str] = {
        "intervention": "bool", "controller": "int64", _REWARD: "float32", _SUCCESS: "bool", _DONE: "bool",
        _OUTCOME: "string", DESCRIPTION: "string",
    }  # fmt: skip
    if with_value:
        one[_VALUE] = "float32"
    for key, dtype in one.items():
        features[key] = {"dtype": dtype, "shape": (1,), "names": None}
        cells[key] = _KNOWN[key]
    for camera, (height, width) in embodiment.cameras.items():
        key = f"{IMAGES}{camera}"
        kind = "image" if lossless else "video"
        features[key] = {"dtype": kind, "shape": (height, width, 3), "names": ["height", "width", "channels"]}
        cells[key] = _camera_cell(camera)
    return WrittenColumns(robot_type=embodiment.name, features=features, cells=cells)


def columns_like(dataset: Path, embodiment: Embodiment, *, with_value: bool) -> WrittenColumns:
    """Return the columns of another dataset, for LeRobot's tools to put the two together.

    Raises:
        ConfigError: if it cannot be read, is of another robot or rate, or has a feature that episodes do not.
    """
    path = dataset / "meta" / "info.json"
    try:
        info = json.loads(path.read_bytes())
        features, fps, robot_type = info["features"], float(info["fps"]), info.get("robot_type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}: {error}): give the directory of a LeRobotDataset"
        ) from error
    layout = layout_of(features, fps, run=embodiment)
    if wrong := mismatches(layout, embodiment, fps):
        raise ConfigError(f"the run's episodes do not fit {dataset}: {'; '.join(wrong)}")
    cells = _cells_of(layout)
    cells |= {key: _KNOWN[key] for key in features if key in _KNOWN and (key != _VALUE or with_value)}
    if missing := [key for key in features if key not in cells and key not in BOOKKEEPING]:
        raise ConfigError(
            f"episodes have no {', '.join(missing)}, which {dataset} has: take it out of a copy of that "
            f'(lerobot-edit-dataset --operation.type remove_feature --operation.feature_names "{missing}")'
        )
    for camera in layout.cameras:
        if (size := embodiment.cameras[camera.name]) != (camera.height, camera.width):
            raise ConfigError(
                f"frames of {camera.name} are {size[0]}x{size[1]} in the run, {camera.height}x{camera.width} in "
                f"{dataset}: import without --image-size to export it like that"
            )
    return WrittenColumns(
        robot_type=robot_type,
        # How a video was encoded is said of each by whoever encodes it.
        features={
            key: {
                name: value for name, value in features[key].items() if name != "info" or not _is_video(features[key])
            }
            for key in cells
        },
        cells=cells,
    )


def _cells_of(layout: DatasetLayout) -> dict[str, Cell]:
    def action(episode: Episode, row: int, _: object) -> Any:
        return layout.recorded_action_of(episode.actions_TA[min(row, episode.steps - 1)])

    cells: dict[str, Cell] = {ACTION: action}
    begin = 0
    for column in layout.state:
        cells[column.key] = _state_cell(slice(begin, begin + column.size), layout)
        begin += column.size
    for camera in layout.cameras:
        cells[camera.key] = _camera_cell(camera.name)
    return cells


def _state_columns(tokens: tuple[TokenSpec, ...]) -> list[tuple[str, int, list[str], int]]:
    """Return (feature, size, names, first entry) of each column."""
    keys = [OBSERVATION + as_recorded(token.name) for token in tokens]
    if STATE not in keys or len(set(keys)) != len(keys):
        names = list(flat_names(tokens)) or [name for token in tokens for name in _counted(token)]
        return [(STATE, len(names), names, 0)]
    begins = np.cumsum([0, *(token.size for token in tokens)]).tolist()
    return [
        (key, token.size, list(token.names) or _counted(token), begin)
        for key, token, begin in zip(keys, tokens, begins, strict=False)
    ]


def _counted(token: TokenSpec) -> list[str]:
    return [f"{token.name}_{number}" for number in range(token.size)] if token.size > 1 else [token.name]


def _state_cell(part: slice, layout: DatasetLayout | None = None) -> Cell:
    def cell(episode: Episode, row: int, _: object) -> Any:
        state_S = episode.states_TS[row]
        return (state_S if layout is None else layout.recorded_state_of(state_S))[part]

    return cell


def _camera_cell(camera: str) -> Cell:
    return lambda episode, row, _: decode_frame(episode.images[camera][row])


def _controller(episode: Episode, row: int, _: object = None) -> int:
    return int(episode.controllers_T[min(row, episode.steps - 1)])


def _human(episode: Episode, row: int, _: object = None) -> bool:
    return bool(_controller(episode, row) == Controller.HUMAN)


def _success(episode: Episode, row: int, _: object = None) -> bool:
    """In the last frame alone, which shows what was achieved."""
    return bool(row == episode.steps and episode.info.outcome is Outcome.SUCCESS)


def _value(episode: Episode, row: int, values_T: FloatArray | None) -> Any:
    assert values_T is not None  # The column is there where values are.
    return values_T[row]


_KNOWN: Mapping[str, Cell] = {
    **dict.fromkeys(INTERVENTION_COLUMNS, _human),
    "controller": _controller,
    _REWARD: _success,
    _SUCCESS: _success,
    _DONE: lambda episode, row, _: row == episode.steps,
    _OUTCOME: lambda episode, row, _: episode.info.outcome.value,
    DESCRIPTION: lambda episode, row, _: description_of(episode.info) if row == 0 else "",
    _VALUE: _value,
}
"""What an episode says besides state, action and pictures."""


def _cast(value: Any, feature: Feature) -> Any:
    if feature["dtype"] in ("string", "image", "video"):
        return value
    return np.asarray(value, dtype=feature["dtype"]).reshape(tuple(feature["shape"]))


def _is_video(feature: Feature) -> bool:
    return str(feature["dtype"]) == "video"
