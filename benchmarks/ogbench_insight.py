"""What a run of `lwd ogbench-check` has learned so far, where its successes alone do not tell: values and grasps.

At states of the play data where no sub-goal is met: what Q says of the data's own chunk and of the reference's, by
steps until one is met. Then what the reference, the policy and the best of its chunks do from starts that no result
uses: which cubes they lift, what share of the sub-goals they reach. With --more it first trains on, in memory only,
and with --temperature-fraction under another temperature: would a stronger or weaker pull of Q help? Needs a run's
directory:

    python -m benchmarks.ogbench_insight --env cube-double --method lwd [--episodes 20] [--root runs/ogbench-check]
        [--more 10000 --temperature-fraction .5 --precision bfloat16]
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from lwd.algos.lwd import LWD
from lwd.models.acting import ActingPolicy
from lwd.models.precision import Precision
from lwd.recipes.ogbench_check.check import CheckConfig, CheckMethod, acting, evaluate, newest
from lwd.recipes.ogbench_check.dataset import SUB_GOALS, PlayBatches, load_play_data
from lwd.recipes.ogbench_check.play_data import Arrays, BenchmarkEnv, make_play_data
from lwd.types import FloatArray

STARTS = 500_000
LIFTED_M = 0.06
"""Height of a cube's centre that is off the table: it lies at .02, and on another cube at .06."""
BINS = ((5, 10), (11, 20), (21, 50), (51, 100), (101, 200), (201, 1000))
"""Of steps until a sub-goal is met; a chunk that begins earlier than the first may leave the episode."""
STATES = 512
"""The most per bin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=get_args(BenchmarkEnv), default="cube-double")
    parser.add_argument("--method", choices=get_args(CheckMethod), default="lwd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--more", type=int, default=0, metavar="UPDATES")
    parser.add_argument("--temperature-fraction", type=float, default=CheckConfig.temperature_fraction)
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of training on")
    parser.add_argument("--root", type=Path, default=Path("runs/ogbench-check"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = CheckConfig(
        env=options.env,
        method=options.method,
        seed=options.seed,
        episodes=options.episodes,
        shards=options.shards,
        root=options.root,
        out=options.root,
        temperature_fraction=options.temperature_fraction,
    )
    data = load_play_data(config.env, make_play_data(config.root, config.env, range(config.shards)))
    batches = PlayBatches(
        data, horizon=config.horizon, gamma=config.gamma, batch_size=config.batch_size, seed=config.seed
    )
    algorithm = newest(config, batches)
    train_on(algorithm, batches, options.more, options.precision)
    print(json.dumps({"updates": algorithm.updates, "temperature_fraction": config.temperature_fraction}), flush=True)
    for row in values(algorithm, batches, steps_until_a_sub_goal(data, -float(SUB_GOALS[config.env]))):
        print(json.dumps(row))
    who = {
        "reference": algorithm.reference,
        "policy": acting(algorithm, "qam"),
        "best of n": acting(algorithm, "best_of_n"),
    }
    for name, policy in who.items():
        print(json.dumps({"acting": name, **deeds(policy, config)}), flush=True)


def train_on(algorithm: LWD, batches: PlayBatches, updates: int, precision: Precision) -> None:
    """Train for more updates; the run's checkpoints stay as they are."""
    learning = (algorithm.policy, algorithm.reference, algorithm.critic, algorithm.target_critic)
    if algorithm.imitation is not None:
        learning += (algorithm.imitation.policy,)
    for network in learning:
        network.precision = precision
    for update in range(algorithm.updates, algorithm.updates + updates):
        algorithm.update(batches.batch(update))
    for network in learning:
        network.precision = "float32"


def steps_until_a_sub_goal(data: Arrays, worst: float) -> FloatArray:
    """Return for each row (N,) the steps until one is met; inf where one is met already, or none later."""
    steps_N = np.full(len(data["rewards"]), np.inf)
    ahead = np.inf
    for row in range(len(steps_N) - 1, -1, -1):
        if data["terminals"][row]:
            ahead = np.inf
        ahead = 0.0 if data["rewards"][row] > worst else ahead + 1
        steps_N[row] = ahead if ahead > 0 else np.inf
    return steps_N


@torch.no_grad()
def values(algorithm: LWD, batches: PlayBatches, steps_N: FloatArray) -> list[dict[str, Any]]:
    """Return mean Q by steps until a sub-goal is met."""
    random = np.random.default_rng(0)
    critic, reference, rows = algorithm.target_critic, algorithm.reference, []
    for low, high in BINS:
        found = np.flatnonzero((steps_N >= low) & (steps_N <= high))
        if not found.size:
            continue
        batch = batches.gather(random.choice(found, min(found.size, STATES), replace=False))
        seen, generator = batch.observation, torch.Generator().manual_seed(0)
        z_BZ = critic.encode(seen)
        proposed = reference.sample(seen, reference.chunk_noise(seen.size, generator)).clamp(-1, 1)
        chunks = {"data": critic.normalizer.action(batch.action_chunk_BHA), "reference": proposed}
        q = {name: float(torch.stack(critic.q(z_BZ, chunk_BHA)).mean()) for name, chunk_BHA in chunks.items()}
        rows.append(
            {"steps": [low, high], "states": seen.size, "q": {name: round(mean, 3) for name, mean in q.items()}}
        )
    return rows


def deeds(policy: ActingPolicy, config: CheckConfig) -> dict[str, Any]:
    """Return what was done from the starts: shares of the episodes, and the mean score."""
    lifted: dict[str, set[int]] = {}

    def see(episode: int, info: Mapping[str, Any]) -> None:
        for name, value in info.items():
            if name.startswith("privileged/block_") and name.endswith("_pos"):
                cube = name.removeprefix("privileged/").removesuffix("_pos")
                lifted.setdefault(cube, set())
                if value[2] > LIFTED_M:
                    lifted[cube].add(episode)

    attempts = evaluate(policy, config, first_start=STARTS, see=see)
    return {
        "success": float(np.mean([attempt.success for attempt in attempts])),
        "score": float(np.mean([attempt.score for attempt in attempts])),
        "lifted": {cube: len(episodes) / config.episodes for cube, episodes in sorted(lifted.items())},
    }


if __name__ == "__main__":
    main()
