"""What an episode looked like and was worth: `python -m lwd.console.episode_track`, a process of its own.

It loads simulator and networks, which the console does without, and ends. Writes to standard output, little-endian:
length of the JSON u32, JSON, padding to 4 bytes, poses ((T + 1) x N x 7 float32), lamps ((T + 1) u32), value
distributions ((T + 1) x K float32). What cannot be made is left out, and the JSON says why.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwd.data.episode_file import read_episode
from lwd.errors import LWDError
from lwd.evaluation.value_episodes import trace_episode
from lwd.models.checkpoint import load_policy, load_value
from lwd.recipes.reporting import newest_valued
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.sim import EMBODIMENTS
from lwd.types import Episode


def episode_track(run: RunDirectory, key: str) -> bytes:
    """Return the track of one episode of a run's store.

    Raises:
        StoreError: if the store has no such episode.
    """
    episode = read_episode(run.store().get(key))
    head: dict[str, Any] = {"steps": episode.steps, "bodies": 0, "atoms": [], "notes": []}
    parts: list[bytes] = []
    try:
        poses_TN7, lamps_T = _poses(episode)
        head["bodies"] = poses_TN7.shape[1]
        parts += [poses_TN7.astype("<f4").tobytes(), lamps_T.astype("<u4").tobytes()]
    except LWDError as error:
        head["notes"].append(str(error))
    try:
        checkpoint = newest_valued(run)
        network = None if checkpoint is None else load_value(checkpoint.value_path)
        if checkpoint is None or network is None:
            head["notes"].append("no checkpoint of this run has a value network yet")
        elif network.config.num_atoms == 1:
            head["notes"].append("the value of this run's method is a number, not a distribution")
        else:
            trace = trace_episode(episode, network, load_policy(checkpoint.policy_path).instructions)
            head |= {
                "atoms": trace.atoms_K.tolist(),
                "value": trace.quantile_T.tolist(),
                "value_name": trace.quantile_name,
                "value_of": f"{checkpoint.progress.stage}, update {checkpoint.progress.update}",
            }
            parts.append(trace.probs_TK.astype("<f4").tobytes())
    except LWDError as error:
        head["notes"].append(str(error))
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 4)
    return b"".join((struct.pack("<I", len(text)), text, *parts))


def _poses(episode: Episode) -> tuple[Any, Any]:
    if episode.info.embodiment not in EMBODIMENTS:
        raise LWDError(f"embodiment {episode.info.embodiment} is not simulated: there is nothing to replay it in")
    from lwd.robots.sim.replay import replay

    poses = [robot.body_poses() for robot in replay(episode)]
    return np.stack([each.poses_N7 for each in poses]), np.array([each.lamps for each in poses])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.buffer.write(episode_track(RunDirectory(Path(sys.argv[1])), sys.argv[2]))
