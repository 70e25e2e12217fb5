"""How fast a dry run and an import of a LeRobot dataset are: python -m benchmarks.lerobot_import [EPISODES].

Needs LeRobot (make test-lerobot's environment). 200 episodes of 100 frames, two cameras of 240 x 320, videos. In the
same run: looking at the first and last frame by seeking, as the dry run does, against decoding from the first to the
last, as it did before; and the import with its threads against one thread. Ratios of one run on one machine.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lwd.data.lerobot.importing import ImportSettings, episode_of
from lwd.data.lerobot.source import LeRobotSource
from lwd.recipes.lerobot_data import import_dataset, survey
from lwd.recipes.lerobot_known import KnownRecordings
from lwd.recipes.lerobot_robot import embodiment_for
from lwd.recipes.run_directory import RunDirectory

FRAMES, HEIGHT, WIDTH, FPS = 100, 240, 320, 20
CAMERAS = ("front", "wrist")
COMPARED = 20
"""Episodes of the two slower ways."""


def main() -> None:
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory(prefix="lwd-bench-import-") as directory:
        root, run = Path(directory) / "arm", RunDirectory(Path(directory) / "run")
        write(root, episodes)
        with LeRobotSource(str(root)) as source:
            settings = ImportSettings(name="arm", all_success=True)
            robot = embodiment_for(run, [source], settings, given=None, image_size=None)
            started = time.perf_counter()
            found = survey(source, robot, settings, KnownRecordings(run))
            tell("dry run", episodes, started)
            some = found.accepted[:COMPARED]
            started = time.perf_counter()
            for item in some:
                for camera in source.layout.cameras:
                    list(source.frames(item.recording.index, camera, (0, FRAMES - 1)))
            tell("first and last frame, decoded from the first on", len(some), started)
            started = time.perf_counter()
            for item in some:
                episode_of(item, source, robot, settings)
            tell("decoded and encoded in one thread", len(some), started)
            started = time.perf_counter()
            import_dataset(run, source, found, settings, progress=lambda done, total: None)
            tell("import (with validation and store)", episodes, started)


def tell(what: str, episodes: int, started: float) -> None:
    elapsed_s = time.perf_counter() - started
    print(f"{what}: {episodes} episodes in {elapsed_s:.1f} s, {episodes / elapsed_s:.1f} per second", flush=True)


def write(root: Path, episodes: int) -> None:
    numbers = {"dtype": "float32", "shape": (6,), "names": None}
    features = {"observation.state": numbers, "action": numbers}
    for camera in CAMERAS:
        features[f"observation.images.{camera}"] = {
            "dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]
        }  # fmt: skip
    dataset = LeRobotDataset.create("local/arm", FPS, features, root=root, robot_type="arm", use_videos=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for episode in range(episodes):
        for frame in range(FRAMES):
            shade = 128 + 100 * np.sin(x / 20 + frame / 5 + episode)
            picture = np.stack([shade, y % 256, np.full_like(x, episode % 256)], -1).clip(0, 255).astype(np.uint8)
            dataset.add_frame(
                {
                    "observation.state": rng.normal(size=6).astype(np.float32),
                    "action": rng.uniform(-1, 1, 6).astype(np.float32),
                    "task": "Pick up the cup.",
                    **{f"observation.images.{camera}": picture for camera in CAMERAS},
                }
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


if __name__ == "__main__":
    main()
