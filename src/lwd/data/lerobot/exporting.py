"""From episodes to a LeRobotDataset of version 3, written by LeRobot's own writer.

An episode of T steps becomes T + 1 frames. The last one repeats the last action, as LeRobot pads chunks beyond an
episode's end, so that its observation is not lost and the import of the export is the same episode.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lwd.data.lerobot.columns import ValueOf, WrittenColumns, columns_like, own_columns
from lwd.errors import ConfigError, EpisodeRejected
from lwd.types import Embodiment, Episode


def export_episodes(
    root: Path,
    episodes: Iterable[Episode],
    embodiment: Embodiment,
    *,
    lossless: bool = False,
    value: ValueOf | None = None,
    like: Path | None = None,
    on_written: Callable[[int], None] = lambda count: None,
) -> int:
    """Write episodes as a dataset.

    Args:
        root: the dataset's directory; it must not exist.
        lossless: pictures instead of videos: exact, and ten to fifty times as large.
        value: gives the column `value`.
        like: directory of a dataset whose features and kind of frames it gets, and no others.
        on_written: called with the number of episodes so far.
    Returns:
        the number of episodes.
    Raises:
        ConfigError: if the directory exists, the rate is not a whole number, or a feature of `like` cannot be filled.
        EpisodeRejected: if an episode does not fit the embodiment; what was written is removed by the caller.
    """
    if root.exists():
        raise ConfigError(f"{root} exists: give a directory that does not")
    if abs(embodiment.control_hz - round(embodiment.control_hz)) > 1e-9:
        raise ConfigError(f"control_hz is {embodiment.control_hz:g}; LeRobotDataset has whole frames per second")
    columns = (
        own_columns(embodiment, lossless=lossless, with_value=value is not None)
        if like is None
        else columns_like(like, embodiment, with_value=value is not None)
    )
    # Here, not above: the verb explains itself without LeRobot.
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        repo_id=f"local/{root.name}",
        fps=round(embodiment.control_hz),
        features=dict(columns.features),
        root=root,
        robot_type=columns.robot_type,
        use_videos=any(feature["dtype"] == "video" for feature in columns.features.values()),
    )
    count = 0
    try:
        for episode in episodes:
            _require_fit(episode, embodiment)
            for frame in _frames(episode, columns, value):
                dataset.add_frame(frame)
            # One process: a pool of encoders would be started anew for every episode.
            dataset.save_episode(parallel_encoding=False)
            count += 1
            on_written(count)
    finally:
        dataset.finalize()
    return count


def _frames(episode: Episode, columns: WrittenColumns, value: ValueOf | None) -> Iterable[Mapping[str, Any]]:
    values_T = None if value is None else value(episode)
    for row in range(episode.steps + 1):
        yield {"task": episode.info.instruction, **columns.frame(episode, row, values_T)}


def _require_fit(episode: Episode, embodiment: Embodiment) -> None:
    info = episode.info
    if info.embodiment != embodiment.name or set(episode.images) != set(embodiment.cameras):
        raise EpisodeRejected(
            f"episode {info.episode_id} is of embodiment {info.embodiment!r} with cameras {sorted(episode.images)}; "
            f"this dataset is of {embodiment.name!r} with {sorted(embodiment.cameras)}: export them apart"
        )
