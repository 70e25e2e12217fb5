"""Every method of the comparison, from its recipe through its stages to a policy that acts."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.recap import RecapConfig
from lwd.algos.sft import SFTConfig
from lwd.errors import CheckpointError, ConfigError, ResumeError
from lwd.models.checkpoint import load_policy
from lwd.recipes.algorithms import continue_online
from lwd.recipes.fleet_learner import LearnerConfig, run_learner
from lwd.recipes.methods import METHODS, RECAP_ROUNDS, method_recipe, with_method
from lwd.recipes.reporting import report_run
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import run_offline, run_sft
from lwd.robots.sim.embodiments import STATE_EMBODIMENT
from lwd.types import Observation

from ...tiny_run import RECIPE, as_fleet, commit, copy_of, make_data


def level(method: str) -> float | None:
    return 0.45 if method == "constant_level" else None


def tiny(method: str):
    return with_method(
        replace(RECIPE, offline=replace(RECIPE.offline, updates=10)), method, quantile_level=level(method)
    )


@pytest.fixture(scope="module")
def with_sft(tmp_path_factory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("run") / "sft")
    commit(run, make_data())
    run_sft(run, RECIPE.sft, seed=3)
    return run


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_offline_then_online_and_acts(method, with_sft, tmp_path):
    run = copy_of(with_sft, tmp_path / "run")
    recipe = tiny(method)
    if METHODS[method].offline:
        assert run_offline(run, recipe.offline, seed=3).progress.finished
    commit(run, [as_fleet(episode) for episode in make_data()])
    stage = run_learner(run, recipe, LearnerConfig(seed=3, on_bus=False), stop=lambda: False)
    assert stage.progress.finished
    assert stage.progress.update == recipe.fleet.limiter.updates_allowed(recipe.fleet.env_steps) > 0
    policy = load_policy(run.finished("online", "up").policy_path)
    seen = [Observation(state=np.zeros(STATE_EMBODIMENT.state_size, np.float32))] * 2
    chunks = policy.act(seen, ["open the drawer"] * 2, generator=torch.Generator().manual_seed(0))
    assert chunks.shape == (2, 5, 5)
    assert np.isfinite(chunks).all()
    report = report_run(run, tmp_path / "report.html", film=False).read_text()
    assert ("probability of each value" in report) == (method not in ("expectile", "hg_dagger"))


def test_recap_publishes_once_per_round_and_lets_the_robots_wait_meanwhile(with_sft, tmp_path):
    run = copy_of(with_sft, tmp_path / "run")
    recipe = tiny("recap")
    run_offline(run, recipe.offline, seed=3)
    commit(run, [as_fleet(episode) for episode in make_data()])
    stage = run_learner(run, recipe, LearnerConfig(seed=3, on_bus=False), stop=lambda: False)
    assert stage.progress.policy_version == RECAP_ROUNDS  # version 0 is the offline stage's
    limiter, half = recipe.fleet.limiter, recipe.fleet.env_steps // 2
    assert limiter.updates_allowed(half - 1) == 0
    assert limiter.step_budget(0, 10**6) == limiter.step_budget(limiter.updates_per_round - 1, 10**6) == half
    assert limiter.step_budget(limiter.updates_per_round, 10**6) == 2 * half


def test_a_run_of_another_method_is_not_continued(with_sft, tmp_path):
    run = copy_of(with_sft, tmp_path / "run")
    run_offline(run, tiny("fql").offline, seed=3)
    with pytest.raises(ResumeError, match=r"algorithm\.extraction = 'fql', now it is 'qam'"):
        run_offline(run, tiny("lwd").offline, seed=3)
    with pytest.raises(CheckpointError, match="is not RECAP's"):
        continue_online(run, tiny("recap").online, seed=3, device="cpu")


def test_recap_is_trained_by_one_process(with_sft, tmp_path):
    run = copy_of(with_sft, tmp_path / "run")
    run_offline(run, tiny("recap").offline, seed=3)
    with pytest.raises(ConfigError, match="start one learner process"):
        continue_online(run, tiny("recap").online, seed=3, device="cpu", sum_over_processes=lambda tensor: None)


@pytest.mark.parametrize("budget", ["smoke", "full"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_shares_everything_that_it_does_not_define(method, budget):
    ours, theirs = method_recipe(budget), method_recipe(budget, method, quantile_level=level(method))
    for part in ("data", "sft", "imitation", "imitation_updates", "evaluation_episodes"):
        assert getattr(theirs, part) == getattr(ours, part), part
    assert theirs.fleet.env_steps == ours.fleet.env_steps
    updates = ours.fleet.limiter.updates_allowed(ours.fleet.env_steps)
    assert theirs.fleet.limiter.updates_allowed(theirs.fleet.env_steps) in (updates, updates - 1)
    assert theirs.offline.updates == ours.offline.updates
    for stage in ("offline", "online"):
        shared = ("batch_size", "instruction_noise", "precision")
        before, after = asdict(getattr(ours, stage)), asdict(getattr(theirs, stage))
        assert {name: before[name] for name in shared} == {name: after[name] for name in shared}


def test_the_methods_are_what_they_are_called():
    def online(method: str):
        return method_recipe("full", method, quantile_level=level(method)).online

    lwd = online("lwd").algorithm
    assert (lwd.value, lwd.extraction) == ("divl", "qam")
    paper = method_recipe("full", "lwd_paper")
    assert (paper.offline.algorithm.quantile_base, paper.online.algorithm.quantile_base) == (0.6, 0.9)
    assert (paper.offline.n_step_long, paper.online.n_step_long, paper.online.n_step_short) == (10, 1, 1)
    assert paper.online.algorithm.reference_learning_rate is None
    assert paper.online.algorithm.rollout == "reference"
    constant = online("constant_level").algorithm
    assert constant == replace(lwd, quantile_base=0.45, entropy_weight=0.0)
    assert online("expectile").critic.num_atoms == 1
    assert online("qam").critic.num_critics == 10
    assert online("best_of_n").algorithm == replace(lwd, extraction="best_of_n")
    assert online("fql").algorithm == replace(lwd, extraction="fql")
    assert isinstance(online("recap").algorithm, RecapConfig)
    assert isinstance(online("hg_dagger").algorithm, SFTConfig)
    assert isinstance(lwd, LWDConfig)


def test_unknown_methods_and_levels_of_no_use_are_refused():
    with pytest.raises(ConfigError, match="method is 'ppo'; it must be one of: lwd, "):
        method_recipe("full", "ppo")
    with pytest.raises(ConfigError, match="quantile_level is None with method 'constant_level'"):
        method_recipe("full", "constant_level")
    with pytest.raises(ConfigError, match=r"quantile_level is 0\.5 with method 'lwd'"):
        method_recipe("full", quantile_level=0.5)
