"""TorchRL's replay buffer on the sampling task. Runs in its own environment and prints JSON; imports nothing of ours.

    python peer_torchrl.py ROWS IMAGE_ROWS STATE ACTION EPISODE HORIZON BATCH SECONDS

`slices`: steps as they were recorded; `SliceSampler` cuts chunks of H steps, with the next observations of all H.
`flat`: chunk and next observation were put together at writing; a row is a transition. Cheaper to sample, at
H times the memory for actions and twice for observations, and no n-step or relabelling afterwards.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
import torchrl
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, RandomSampler, SliceSampler, TensorDictReplayBuffer


def slices(rows: int, state: int, action: int, episode: int, horizon: int, batch: int) -> TensorDictReplayBuffer:
    steps = TensorDict(
        {
            "observation": torch.randn(rows, state),
            "action": torch.randn(rows, action),
            "episode": torch.arange(rows) // episode,
            "next": {
                "observation": torch.randn(rows, state),
                "reward": torch.zeros(rows, 1),
                "done": torch.zeros(rows, 1, dtype=torch.bool),
            },
        },
        [rows],
    )
    sampler = SliceSampler(slice_len=horizon, traj_key="episode", cache_values=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(rows), sampler=sampler, batch_size=batch * horizon)
    buffer.extend(steps)
    return buffer


def flat(
    rows: int, observation: torch.Tensor, next_: torch.Tensor, chunk: tuple[int, int], batch: int
) -> TensorDictReplayBuffer:
    transitions = TensorDict(
        {
            "observation": observation,
            "action": torch.randn(rows, *chunk),
            "next": {
                "observation": next_,
                "reward": torch.zeros(rows, 1),
                "done": torch.zeros(rows, 1, dtype=torch.bool),
            },
        },
        [rows],
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(rows), sampler=RandomSampler(), batch_size=batch)
    buffer.extend(transitions)
    return buffer


def rate(sample: Callable[[], object], batch: int, seconds: float) -> float:
    sample()
    started_s, batches = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        sample()
        batches += 1
    return batches * batch / (time.perf_counter() - started_s)


def main() -> None:
    rows, image_rows, state, action, episode, horizon, batch = map(int, sys.argv[1:8])
    seconds = float(sys.argv[8])
    torch.set_num_threads(1)
    rates = {"slices": rate(slices(rows, state, action, episode, horizon, batch).sample, batch, seconds)}
    buffer = flat(rows, torch.randn(rows, state), torch.randn(rows, state), (horizon, action), batch)
    rates["flat"] = rate(buffer.sample, batch, seconds)
    del buffer
    images, next_images = (torch.randint(256, (image_rows, 64, 64, 3), dtype=torch.uint8) for _ in range(2))
    rates["images flat"] = rate(flat(image_rows, images, next_images, (horizon, action), batch).sample, batch, seconds)
    print(json.dumps({"version": torchrl.__version__, "torch": torch.__version__, "rates": rates}))


if __name__ == "__main__":
    main()
