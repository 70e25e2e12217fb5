"""What no cell can be faster than: an update's matrix products alone, and the simulator alone, each on one core."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lwd.algos.sft import SFT
from lwd.data import durable
from lwd.evaluation.experiment.beside import FLOORS, Floors
from lwd.models.critic import ValueCritic
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA
from lwd.recipes.algorithms import build_lwd
from lwd.recipes.bench_learner import build_sampler
from lwd.recipes.matrix_products import Floor, matrix_products
from lwd.recipes.reproduce.scale import WORLD
from lwd.recipes.scene import Recipe
from lwd.robots.sim import TASKS, make_robot
from lwd.robots.sim.embodiments import STATE_EMBODIMENT


def write_floors(recipe: Recipe, out: Path, *, seconds: float = 3.0) -> None:
    """Measure the floors of a recipe's updates and of the simulator on this machine; keep what was measured before."""
    path = out / FLOORS
    if not path.exists():
        durable.replace(path, measure_floors(recipe, seconds=seconds).model_dump_json(indent=1).encode())


def measure_floors(recipe: Recipe, *, seconds: float) -> Floors:
    """Measure with one thread, for about `seconds` each; call it while nothing else runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Floors(
            sft_updates_per_s=_sft_rate(recipe, seconds),
            lwd_updates_per_s=_lwd_rate(recipe, seconds),
            env_steps_per_s=_simulator_rate(seconds),
        )
    finally:
        torch.set_num_threads(before)


def _lwd_rate(recipe: Recipe, seconds: float) -> float:
    stage, policy = recipe.online, _policy(recipe)
    critic = ValueCritic(STATE_EMBODIMENT, stage.critic, policy.normalizer.statistics, policy.horizon)
    algorithm = build_lwd(policy, deepcopy(policy), critic, stage, seed=0, device="cpu")
    batch = build_sampler(stage.batch_size).batch(0)
    return _rate(lambda: algorithm.update(batch), algorithm.config.actor_every, seconds)


def _sft_rate(recipe: Recipe, seconds: float) -> float:
    algorithm = SFT(_policy(recipe), recipe.sft.algorithm, torch.Generator().manual_seed(0))
    batch = build_sampler(recipe.sft.batch_size).batch(0)
    # All of it counts, as in demonstrations.
    batch = replace(batch, imitable_BH=batch.action_mask_BH)
    return _rate(lambda: algorithm.update(batch), 1, seconds)


def _policy(recipe: Recipe) -> SmallVLA:
    size = STATE_EMBODIMENT.state_size
    return SmallVLA(STATE_EMBODIMENT, recipe.sft.policy, StateStatistics(mean=(0.0,) * size, std=(1.0,) * size))


def _rate(update: Callable[[], object], period: int, seconds: float) -> float:
    """Updates per second if there were nothing but the matrix products of `period` consecutive updates."""
    for _ in range(period):  # the first update does more: it also measures Q's spread
        update()
    floor = Floor(matrix_products(lambda: [update() for _ in range(period)]))
    deadline_s = time.monotonic() + seconds
    floor.measure()
    while time.monotonic() < deadline_s:
        floor.measure()
    return period / floor.time_s


def _simulator_rate(seconds: float) -> float:
    """Control steps per second of one simulator under random actions; resets do not count.

    Of each task the fastest episode counts: what other processes do can only lengthen one.
    """
    rng = np.random.default_rng(0)
    robot = make_robot(STATE_EMBODIMENT.name, WORLD)
    best_s = dict.fromkeys(TASKS, float("inf"))
    deadline_s, seed = time.monotonic() + seconds, 0
    try:
        while seed == 0 or time.monotonic() < deadline_s:
            for name, task in TASKS.items():
                robot.reset(task, seed)
                actions = rng.uniform(-1, 1, size=(task.time_limit, STATE_EMBODIMENT.action_size)).astype(np.float32)
                started_s = time.perf_counter()
                for action in actions:
                    robot.step(action)
                best_s[name] = min(best_s[name], time.perf_counter() - started_s)
            seed += 1
    finally:
        robot.close()
    return sum(task.time_limit for task in TASKS.values()) / sum(best_s.values())
