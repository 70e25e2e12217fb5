"""From episodes to a LeRobotDataset of version 3, written by LeRobot's own writer.

An episode of T steps becomes T + 1 frames. The last one repeats the last action, as LeRobot pads chunks beyond an
episode's end, so that its observation is not lost and the import of the export is the same episode.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lwd.data.frames import decode_frame
from lwd.data.lerobot.importing import description_of
from lwd.data.lerobot.layout import DESCRIPTION
from lwd.errors import ConfigError, EpisodeRejected
from lwd.types import Controller, Embodiment, Episode, FloatArray

ValueOf = Callable[[Episode], FloatArray]
"""Episode -> (T + 1,), the value of every observation."""


def dataset_features(embodiment: Embodiment, *, lossless: bool, with_value: bool) -> dict[str, dict[str, Any]]:
    """Describe an embodiment's episodes as features of a LeRobotDataset."""
    names = [
        f"{token.name}_{number}" if token.size > 1 else token.name
        for token in embodiment.state_tokens
        for number in range(token.size)
    ]
    actions = [f"action_{number}" for number in range(embodiment.action_size)]
    features: dict[str, dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": (embodiment.state_size,), "names": names},
        "action": {"dtype": "float32", "shape": (embodiment.action_size,), "names": actions},
        "intervention": {"dtype": "bool", "shape": (1,), "names": None},
        "controller": {"dtype": "int64", "shape": (1,), "names": None},
        "outcome": {"dtype": "string", "shape": (1,), "names": None},
        DESCRIPTION: {"dtype": "string", "shape": (1,), "names": None},
    }
    if with_value:
        features["value"] = {"dtype": "float32", "shape": (1,), "names": None}
    for camera, (height, width) in embodiment.cameras.items():
        features[f"observation.images.{camera}"] = {
            "dtype": "image" if lossless else "video",
            "shape": (height, width, 3),
            "names": ["height", "width", "channels"],
        }
    return features


def export_episodes(
    root: Path,
    episodes: Iterable[Episode],
    embodiment: Embodiment,
    *,
    lossless: bool = False,
    value: ValueOf | None = None,
    on_written: Callable[[int], None] = lambda count: None,
) -> int:
    """Write episodes as a dataset.

    Args:
        root: the dataset's directory; it must not exist.
        lossless: pictures instead of videos: exact, and ten to fifty times as large.
        value: gives the column `value`.
        on_written: called with the number of episodes so far.
    Returns:
        the number of episodes.
    Raises:
        ConfigError: if the directory exists, or the rate is not a whole number.
        EpisodeRejected: if an episode does not fit the embodiment; what was written is removed by the caller.
    """
    if root.exists():
        raise ConfigError(f"{root} exists: give a directory that does not")
    if abs(embodiment.control_hz - round(embodiment.control_hz)) > 1e-9:
        raise ConfigError(f"control_hz is {embodiment.control_hz:g}; LeRobotDataset has whole frames per second")
    # Here, not above: the verb explains itself without LeRobot.
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        repo_id=f"local/{root.name}",
        fps=round(embodiment.control_hz),
        features=dataset_features(embodiment, lossless=lossless, with_value=value is not None),
        root=root,
        robot_type=embodiment.name,
        use_videos=not lossless,
    )
    count = 0
    try:
        for episode in episodes:
            _require_fit(episode, embodiment)
            for frame in _frames(episode, None if value is None else value(episode)):
                dataset.add_frame(frame)
            # One process: a pool of encoders would be started anew for every episode.
            dataset.save_episode(parallel_encoding=False)
            count += 1
            on_written(count)
    finally:
        dataset.finalize()
    return count


def _frames(episode: Episode, values_T: FloatArray | None) -> Iterable[Mapping[str, Any]]:
    steps = episode.steps
    for row in range(steps + 1):
        step = min(row, steps - 1)
        controller = int(episode.controllers_T[step])
        frame: dict[str, Any] = {
            "task": episode.info.instruction,
            "observation.state": episode.states_TS[row],
            "action": episode.actions_TA[step],
            "intervention": np.array([controller == Controller.HUMAN]),
            "controller": np.array([controller]),
            "outcome": episode.info.outcome.value,
            DESCRIPTION: description_of(episode.info) if row == 0 else "",
        }
        if values_T is not None:
            frame["value"] = values_T[row : row + 1].astype(np.float32)
        for camera, pictures in episode.images.items():
            frame[f"observation.images.{camera}"] = decode_frame(pictures[row])
        yield frame


def _require_fit(episode: Episode, embodiment: Embodiment) -> None:
    info = episode.info
    if info.embodiment != embodiment.name or set(episode.images) != set(embodiment.cameras):
        raise EpisodeRejected(
            f"episode {info.episode_id} is of embodiment {info.embodiment!r} with cameras {sorted(episode.images)}; "
            f"this dataset is of {embodiment.name!r} with {sorted(embodiment.cameras)}: export them apart"
        )
