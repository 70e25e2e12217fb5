"""Play-style data, made again with the package's own oracles: random sub-goals, one after the other, for 1,000 steps.

The published data sets (one million transitions each) cannot be had without the internet. The recipe is OGBench's:
plan oracles with smoothed action noise of 0.1, a new random target whenever one is done, no reward in mind; an episode
of the scene in which the cube leaves the reachable table is made again. Ours differs in random numbers, and in size.
"""

import io
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lwd.data import durable
from lwd.errors import ConfigError

BenchmarkEnv = Literal["scene", "cube-double"]
Arrays = dict[str, npt.NDArray[Any]]
"""The file format of OGBench's data sets: observations (N, S), actions (N, A), terminals (N,), qpos (N, Q), qvel
(N, V), and for the scene button_states (N, 2)."""

EPISODE_STEPS = 1001
EPISODES_PER_SHARD = 10
_NOISE, _SMOOTHING = 0.1, 0.5


def shard_path(root: Path, env: BenchmarkEnv, shard: int) -> Path:
    """Return where a shard of ten episodes lies."""
    return root / env / "play" / f"shard-{shard:04d}.npz"


def make_play_data(
    root: Path,
    env: BenchmarkEnv,
    shards: Sequence[int],
    *,
    workers: int = 2,
    episode_steps: int = EPISODE_STEPS,
    episodes: int = EPISODES_PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make the shards that are missing; a shard is a function of its number alone.

    Args:
        workers: processes; 0: this one.
    Raises:
        ConfigError: if workers is negative.
        StoreError: if a shard cannot be written.
    """
    if workers < 0:
        raise ConfigError(f"workers is {workers}; use processes, or 0 for this one")
    paths = [shard_path(root, env, shard) for shard in shards]
    missing = [shard for shard, path in zip(shards, paths, strict=True) if not path.exists()]
    done = len(paths) - len(missing)

    def finished() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(paths))

    if workers == 0:
        for shard in missing:
            _write_shard(root, env, shard, episode_steps, episodes)
            finished()
        return paths
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            running = [pool.submit(_write_shard, root, env, shard, episode_steps, episodes) for shard in missing]
            for future in as_completed(running):
                future.result()
                finished()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return paths


def _write_shard(root: Path, env: BenchmarkEnv, shard: int, episode_steps: int, episodes: int) -> None:
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    player = _Player(env, episode_steps)
    try:
        for number in range(episodes):
            for name, values in player.episode(shard * episodes + number).items():
                rows[name] += values
    finally:
        player.close()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **_arrays(rows))
    path = shard_path(root, env, shard)
    durable.ensure_directory(path.parent)
    durable.replace(path, buffer.getvalue())


def _arrays(rows: dict[str, list[Any]]) -> Arrays:
    kinds = {"terminals": np.bool_, "button_states": np.int64}
    return {name: np.array(values, dtype=kinds.get(name, np.float32)) for name, values in rows.items()}


class _Player:
    """One simulator in data-collection mode with an oracle for each kind of target."""

    def __init__(self, env: BenchmarkEnv, episode_steps: int) -> None:
        # Here, not above: only what simulates needs the simulator.
        import gymnasium
        import ogbench.manipspace  # noqa: F401 - registers the environments
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
        from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
        from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

        import lwd.robots.sim.simulator  # noqa: F401 - chooses MuJoCo's OpenGL before MuJoCo is imported

        self._name = env
        self._env: Any = gymnasium.make(
            f"{env}-v0", terminate_at_goal=False, mode="data_collection", max_episode_steps=episode_steps
        )
        noise = {"noise": _NOISE, "noise_smoothing": _SMOOTHING}
        self._oracles = {"cube": CubePlanOracle(env=self._env, **noise)}
        if env == "scene":
            self._oracles |= {
                "button": ButtonPlanOracle(env=self._env, **noise),
                "drawer": DrawerPlanOracle(env=self._env, **noise),
                "window": WindowPlanOracle(env=self._env, **noise),
            }

    def close(self) -> None:
        self._env.close()

    def episode(self, number: int) -> dict[str, list[Any]]:
        """Play one episode; the same number gives the same steps."""
        attempt = 0
        while True:
            seed = number * 1000 + attempt
            np.random.seed(seed)  # noqa: NPY002 - the oracles draw from the global generator
            rows = self._play(seed)
            if self._name != "scene" or _cube_stays(np.array(rows["qpos"])):
                return rows
            attempt += 1

    def _play(self, seed: int) -> dict[str, list[Any]]:
        rows: defaultdict[str, list[Any]] = defaultdict(list)
        observation, info = self._env.reset(seed=seed)
        stacking = np.random.uniform(0.0, 0.25) if self._name == "cube-double" else 0.5  # noqa: NPY002
        oracle = self._oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        done = False
        while not done:
            action = np.clip(np.array(oracle.select_action(observation, info)), -1, 1)
            following, _, terminated, truncated, info = self._env.step(action)
            done = terminated or truncated
            if oracle.done:
                target_observation, target_info = self._env.unwrapped.set_new_target(p_stack=stacking)
                oracle = self._oracles[target_info["privileged/target_task"]]
                oracle.reset(target_observation, target_info)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["terminals"].append(done)
            rows["qpos"].append(info["prev_qpos"])
            rows["qvel"].append(info["prev_qvel"])
            if self._name == "scene":
                rows["button_states"].append(info["prev_button_states"])
            observation = following
        return rows


def _cube_stays(qpos_TQ: npt.NDArray[np.float64]) -> bool:
    """Whether the scene's cube was always on the table within view, or in the drawer."""
    y, z = qpos_TQ[:, 15], qpos_TQ[:, 16]
    too_far_left = (y <= -0.3) & ((z < 0.06) | (z > 0.08))
    return not bool((y >= 0.29).any() or too_far_left.any())
