"""Small LeRobot datasets, written by LeRobot's own writer."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS = 20
HEIGHT, WIDTH = 48, 64
FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a.pos", "b.pos", "grip.pos"]},
    "observation.effort": {"dtype": "float64", "shape": (2,), "names": ["a", "b"]},
    "action": {"dtype": "float32", "shape": (3,), "names": ["a.pos", "b.pos", "grip.pos"]},
    "is_intervention": {"dtype": "bool", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
TASKS = ("Pick up the cup.", "Open the drawer")


def picture(episode: int, frame: int, camera: int) -> np.ndarray:
    """A smooth picture that differs from frame to frame: what a video codec keeps well."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    shades = [128 + 100 * np.sin(x / 20 + frame / 5), 4 * y, np.full_like(x, 40 * camera + 20 * episode)]
    return np.stack(shades, axis=-1).clip(0, 255).astype(np.uint8)


def make_dataset(
    root: Path, *, lengths: tuple[int, ...] = (12, 9, 7), cameras: tuple[str, ...] = ("front", "wrist"),
    use_videos: bool = True, success: tuple[bool, ...] = (True, False, True), nan_in: int | None = None,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """Write a dataset; return its numbers, episode by episode."""
    features = dict(FEATURES)
    for camera in cameras:
        shape = (HEIGHT, WIDTH, 3)
        kind = "video" if use_videos else "image"
        features[f"observation.images.{camera}"] = {"dtype": kind, "shape": shape, "names": ["h", "w", "c"]}
    dataset = LeRobotDataset.create("local/made", FPS, features, root=root, robot_type="toy_arm", use_videos=use_videos)
    rng = np.random.default_rng(0)
    written = []
    for episode, length in enumerate(lengths):
        numbers = {
            "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
            "observation.effort": rng.normal(size=(length, 2)),
            "action": rng.uniform(-1, 1, size=(length, 3)).astype(np.float32),
            "is_intervention": rng.random((length, 1)) < 0.4,
            "next.success": np.arange(length)[:, None] == (length - 1 if success[episode] else length),
        }
        if nan_in == episode:
            numbers["action"][3, 1] = np.nan
        written.append(numbers)
        for frame in range(length):
            row: dict[str, Any] = {key: values[frame] for key, values in numbers.items()}
            for number, camera in enumerate(cameras):
                row[f"observation.images.{camera}"] = picture(episode, frame, number)
            dataset.add_frame({**row, "task": TASKS[episode % 2]})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return written


def make_old_dataset(root: Path, *, lengths: tuple[int, ...] = (12, 9)) -> list[dict[str, np.ndarray]]:
    """Write a dataset of version 2.1, one file per episode: LeRobot itself only writes version 3 now."""
    written = []
    (root / "meta").mkdir(parents=True)
    lines: dict[str, list[dict[str, Any]]] = {"episodes": [], "episodes_stats": [], "tasks": []}
    for index, length in enumerate(lengths):
        one = root.with_name(f"{root.name}-{index}")
        written += make_dataset(one, lengths=(length,), cameras=("front",), success=(True,))
        table = pq.read_table(next(one.glob("data/**/*.parquet")))
        first = sum(lengths[:index])
        for name, values in (
            ("episode_index", [index] * length),
            ("index", list(range(first, first + length))),
        ):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(values, pa.int64()))
        target = root / "data" / "chunk-000" / f"episode_{index:06d}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
        video = root / "videos" / "chunk-000" / "observation.images.front" / f"episode_{index:06d}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(one.glob("videos/**/*.mp4")), video)
        stats = json.loads((one / "meta" / "stats.json").read_text())
        lines["episodes"].append({"episode_index": index, "tasks": [TASKS[0]], "length": length})
        lines["episodes_stats"].append({"episode_index": index, "stats": stats})
        info = json.loads((one / "meta" / "info.json").read_text())
    lines["tasks"].append({"task_index": 0, "task": TASKS[0]})
    for name, rows in lines.items():
        (root / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info |= {
        "codebase_version": "v2.1", "total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": 1,
        "total_videos": len(lengths), "total_chunks": 1, "chunks_size": 1000,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
        info.pop(name, None)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return written
