"""LeRobot's replay buffer on the sampling task. Runs in its own environment and prints JSON; imports nothing of ours.

    python peer_lerobot.py ROWS IMAGE_ROWS STATE ACTION EPISODE HORIZON BATCH SECONDS

It has no chunks: the nearest equivalent is a transition whose action is the whole chunk as one vector, put together
at writing. `optimize_memory` (the next state is the next row) as its learner uses it; its image augmentation is off,
because ours is not part of sampling either. Images are float32 in its storage. Rows are filled in place: adding them
one by one takes minutes and is not what is measured.
"""

import json
import sys
import time
from importlib.metadata import version

import torch
from lerobot.rl.buffer import ReplayBuffer


def filled(rows: int, key: str, shape: tuple[int, ...], action: int) -> ReplayBuffer:
    buffer = ReplayBuffer(rows, device="cpu", state_keys=[key], use_drq=False, optimize_memory=True)
    state = {key: torch.zeros(1, *shape)}
    buffer.add(state, torch.zeros(1, action), 0.0, state, False, False)
    buffer.states[key].uniform_()
    buffer.actions.uniform_()
    for values in (buffer.rewards, buffer.dones, buffer.truncateds):
        values.zero_()
    buffer.position, buffer.size = 0, rows
    return buffer


def rate(buffer: ReplayBuffer, batch: int, seconds: float) -> float:
    buffer.sample(batch)
    started_s, batches = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        buffer.sample(batch)
        batches += 1
    return batches * batch / (time.perf_counter() - started_s)


def main() -> None:
    rows, image_rows, state, action, _, horizon, batch = map(int, sys.argv[1:8])
    seconds = float(sys.argv[8])
    torch.set_num_threads(1)
    rates = {"flat": rate(filled(rows, "observation.state", (state,), horizon * action), batch, seconds)}
    images = filled(image_rows, "observation.image", (3, 64, 64), horizon * action)
    rates["images flat"] = rate(images, batch, seconds)
    print(json.dumps({"version": version("lerobot"), "torch": torch.__version__, "rates": rates}))


if __name__ == "__main__":
    main()
