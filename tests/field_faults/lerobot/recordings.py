"""Small datasets without pictures, column by column."""

from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def write(
    root: Path, columns: dict[str, list[np.ndarray]], *, fps: int = 20, names: dict[str, Any] | None = None
) -> None:
    """Write a dataset with LeRobot's own writer: column -> one array (frames, size) for each episode."""
    kinds = {np.dtype("bool"): "bool", np.dtype("float64"): "float64"}
    features = {
        key: {
            "dtype": kinds.get(parts[0].dtype, "float32"),
            "shape": (parts[0].shape[1],),
            "names": (names or {}).get(key),
        }
        for key, parts in columns.items()
    }
    dataset = LeRobotDataset.create("local/made", fps, features, root=root, robot_type="toy_arm", use_videos=False)
    for parts in zip(*columns.values(), strict=True):
        for rows in zip(*parts, strict=True):
            dataset.add_frame({**dict(zip(columns, rows, strict=True)), "task": "Pick up the cup."})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


def smooth(seed: int, *, frames: int = 80, size: int = 3) -> np.ndarray:
    """Targets as a person gives them, in degrees: here and there within the same reach."""
    rng = np.random.default_rng(seed)
    goals = np.repeat(rng.uniform(-60, 90, (frames // 10 + 1, size)), 10, axis=0)[:frames]
    return np.stack([np.convolve(goals[:, column], np.ones(5) / 5, mode="same") for column in range(size)], 1).astype(
        np.float32
    )
