"""Play data, its batches under the benchmark's reward, and a small walk from data to a recorded evaluation."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.ogbench_insight import steps_until_a_sub_goal

from lwd.errors import ConfigError, ResumeError
from lwd.models.critic import CriticConfig
from lwd.models.vla import VLAConfig
from lwd.recipes.ogbench_check.check import (
    RESULTS,
    Attempt,
    CheckConfig,
    algorithm_settings,
    evaluate,
    newest,
    record,
    run_check,
)
from lwd.recipes.ogbench_check.dataset import PlayBatches, environment_id, load_play_data
from lwd.recipes.ogbench_check.play_data import make_play_data, shard_path

# gymnasium complains about the precision of OGBench's action limits.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting.*")

STEPS = 60


def tiny_data(root, env, shards=(0,)):
    return make_play_data(root, env, shards, workers=0, episode_steps=STEPS, episodes=2)


@pytest.mark.parametrize("env", ["cube-double", pytest.param("scene", marks=pytest.mark.learning)])
def test_a_shard_is_a_function_of_its_number(env, tmp_path):
    (path,) = tiny_data(tmp_path / "a", env)
    (again,) = tiny_data(tmp_path / "b", env)
    (other,) = tiny_data(tmp_path / "b", env, shards=(1,))
    first, second, third = (dict(np.load(file)) for file in (path, again, other))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["actions"], third["actions"])
    assert first["terminals"].nonzero()[0].tolist() == [STEPS - 1, 2 * STEPS - 1]
    assert ("button_states" in first) == (env == "scene")
    assert np.abs(first["actions"]).max() <= 1
    assert np.abs(first["actions"]).mean() > 0.05


def test_shards_that_are_there_are_not_made_again(tmp_path):
    (path,) = tiny_data(tmp_path, "cube-double")
    path.write_bytes(b"untouched")
    seen = []
    make_play_data(tmp_path, "cube-double", [0], workers=0, progress=lambda *done: seen.append(done))
    assert path.read_bytes() == b"untouched"
    assert seen == []
    assert path == shard_path(tmp_path, "cube-double", 0)
    with pytest.raises(ConfigError, match="workers is -1"):
        make_play_data(tmp_path, "cube-double", [0], workers=-1)


def test_rewards_are_the_environments_own(tmp_path):
    """Replaying the recorded actions from the recorded states, the environment pays what the relabelling says."""
    import mujoco
    import ogbench

    data = load_play_data("cube-double", tiny_data(tmp_path, "cube-double"))
    simulator = ogbench.make_env_and_datasets(environment_id("cube-double"), env_only=True)
    simulator.reset(seed=0)
    inner = simulator.unwrapped
    for row in range(0, STEPS, 7):
        inner._data.qpos[:] = data["qpos"][row]
        inner._data.qvel[:] = data["qvel"][row]
        mujoco.mj_forward(inner._model, inner._data)
        inner.post_step()
        assert inner.compute_reward() == data["rewards"][row], row
    simulator.close()


def test_batches_are_discounted_chunks_within_an_episode():
    rows = 12
    data = {
        "observations": np.arange(rows, dtype=np.float32)[:, None],
        "actions": np.zeros((rows, 5), np.float32),
        "terminals": np.isin(np.arange(rows), [5, 11]),
        "rewards": np.array([-1, -1, -1, 0, 0, -1, -1, -1, -1, -1, -1, -1], np.float32),
        "masks": np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1], np.float32),
    }
    batches = PlayBatches(data, horizon=3, gamma=0.9, batch_size=64, seed=0)
    starts = set(batches.batch(0).observation.state_BS[:, 0].int().tolist())
    assert starts == {0, 1, 2, 6, 7, 8}
    batch = batches.gather(np.array([0, 1, 6]))
    assert batch.bootstrap_observation.state_BS[:, 0].tolist() == [3, 4, 9]
    expected = torch.tensor([-(1 + 0.9 + 0.81), -(1 + 0.9), -(1 + 0.9 + 0.81)]) * 0.1
    torch.testing.assert_close(batch.return_B, expected)
    torch.testing.assert_close(batch.bootstrap_discount_B, torch.tensor([0.729, 0.0, 0.729]))
    assert torch.equal(batches.batch(3).return_B, batches.batch(3).return_B)
    with pytest.raises(ConfigError, match="horizon = 7"):
        PlayBatches(data, horizon=7, gamma=0.9, batch_size=4, seed=0)


@pytest.mark.learning  # two evaluations of up to 500 steps each
@pytest.mark.parametrize("method", ["lwd", "qam"])
def test_from_data_to_a_recorded_evaluation(method, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lwd.recipes.ogbench_check.check.make_play_data", lambda *_, **__: tiny_data(tmp_path, "cube-double")
    )
    config = CheckConfig(
        env="cube-double",
        method=method,
        root=tmp_path,
        out=tmp_path / "out",
        updates=6,
        evaluate_every=4,
        episodes=1,
        batch_size=16,
        critic_warmup_updates=2,
        policy=VLAConfig(token_width=4, context_size=16, expert_width=16, expert_depth=1, flow_steps=2),
        critic=CriticConfig(token_width=4, readout_size=16, action_width=8, pooling_heads=2, width=16, num_atoms=21),
    )
    seen = []
    assert not run_check(config, stop=lambda: len(seen) == 2, watch=lambda result, _: seen.append(result.update))
    assert run_check(config, watch=lambda result, _: seen.append(result.update))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert run_check(config)  # nothing is left to do
    rows = json.loads((tmp_path / "out" / RESULTS).read_text())["benchmarks"]
    wanted = [(updates, extraction) for updates in (4, 6) for extraction in ("best_of_n", "qam")]
    assert [(row["updates"], row["extraction"]) for row in rows] == wanted
    assert {(row["episodes"], row["method"]) for row in rows} == {(1, method)}
    with pytest.raises(ResumeError, match=r"gamma = 0\.99"):
        run_check(replace(config, gamma=0.9))
    data = load_play_data("cube-double", tiny_data(tmp_path, "cube-double"))
    batches = PlayBatches(data, horizon=config.horizon, gamma=config.gamma, batch_size=16, seed=0)
    assert newest(config, batches).updates == 6
    with pytest.raises(ConfigError, match="holds no checkpoint: train first"):
        newest(replace(config, seed=1), batches)


def test_runs_side_by_side_keep_each_other_s_results(tmp_path):
    configs = [CheckConfig(env="scene", method=method, root=tmp_path, out=tmp_path) for method in ("qam", "lwd")]
    with ThreadPoolExecutor(8) as pool:
        for config in configs:
            for updates in range(40, 0, -1):
                attempts = [Attempt(success=True, score=1.0), Attempt(success=False, score=0.5)]
                pool.submit(record, config, updates, "qam", attempts)
    rows = json.loads((tmp_path / RESULTS).read_text())["benchmarks"]
    assert [(row["method"], row["updates"]) for row in rows] == [(m, n) for m in ("lwd", "qam") for n in range(1, 41)]
    assert {(row["success"], row["score"]) for row in rows} == {(0.5, 0.75)}


def test_values_of_the_scaled_rewards_lie_on_the_support():
    for env, most in (("scene", 1.0), ("cube-double", 2.0)):
        settings, critic = algorithm_settings(CheckConfig(env=env, method="lwd", root=None, out=None))
        assert (settings.bootstrap_low, settings.bootstrap_high) == (-most, 0.0)
        assert critic.value_low < -most
        assert critic.value_high > 0


def test_a_run_that_would_train_no_policy_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="updates is 5,000, which trains no policy: the first 10,000"):
        CheckConfig(env="scene", method="lwd", root=tmp_path, out=tmp_path, updates=5_000)


class CubesByHand:
    """A simulator that puts cubes to their places and away from them as told: so many are out of place per step."""

    def __init__(self, episodes: list[list[int]]) -> None:
        self._episodes = iter(episodes)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict]:
        self._open = next(self._episodes)
        return np.zeros(4), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = -float(self._open.pop(0))
        return np.zeros(4), reward, reward == 0, not self._open, {"success": reward == 0}

    def close(self) -> None:
        pass


class Still:
    def act(self, observations, instructions, *, generator):
        return np.zeros((1, 5, 5), np.float32)


def test_the_score_of_an_episode_is_the_share_of_open_sub_goals_it_met_at_once(tmp_path, monkeypatch):
    episodes = [[2, 2, 1, 2, 2, 2, 2], [2, 1, 0, 0], [2, 2, 2, 2, 2, 2], [1, 2, 1]]
    monkeypatch.setattr("ogbench.make_env_and_datasets", lambda *_, **__: CubesByHand(episodes))
    config = CheckConfig(env="cube-double", method="lwd", root=tmp_path, out=tmp_path, episodes=4)
    seen = []
    attempts = evaluate(Still(), config, see=lambda episode, info: seen.append((episode, info.get("success"))))
    found = [(attempt.success, attempt.score) for attempt in attempts]
    assert seen[:8] == [(0, None), *[(0, False)] * 7]
    assert seen[8:12] == [(1, None), (1, False), (1, False), (1, True)]
    assert found == [(False, 0.5), (True, 1.0), (False, 0.0), (False, 0.0)]


def test_steps_until_a_sub_goal_end_with_their_episode():
    data = {
        "rewards": np.array([-2, -2, -1, -2, -2, -2, -2, 0, -2], np.float32),
        "terminals": np.array([0, 0, 0, 0, 0, 1, 0, 0, 1], bool),
    }
    found = steps_until_a_sub_goal(data, -2.0)
    assert found.tolist() == [2, 1, np.inf, np.inf, np.inf, np.inf, 1, np.inf, np.inf]
