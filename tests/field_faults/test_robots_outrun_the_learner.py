"""A fleet on a slow learner does not spend its stage on the first policy, or it is said (D36)."""

import pytest

from lwd.cli.fleet_progress import behind
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.online import OnlineLimits
from lwd.recipes.budget import Budget
from lwd.recipes.fleet_learner import LearnerConfig, online_limits, step_budget, with_fleet
from lwd.recipes.methods import with_method
from lwd.recipes.scene import Recipe, recipe


def steps_by_first_policy(whole: Recipe) -> int:
    """Fleet steps that robots may begin before the second policy is there, however slow the learner is."""
    limits = online_limits(whole, LearnerConfig())
    return step_budget(whole, limits.publish_every - 1, real=False)


@pytest.mark.parametrize("budget", ["full", "large", "vla"])
def test_a_tenth_of_the_stage_and_not_all_of_it_is_done_ahead(budget: Budget) -> None:
    whole = recipe(budget)
    assert steps_by_first_policy(whole) <= 0.15 * whole.fleet.env_steps


@pytest.mark.parametrize("env_steps", [6_000, 20_000, 50_000])
def test_a_shorter_stage_has_a_shorter_lead(env_steps: int) -> None:
    """The default was 50,000 steps: all of such a stage, 124 episodes of 400 steps."""
    whole = with_fleet(recipe("full"), robots=None, env_steps=env_steps, world=None)
    assert steps_by_first_policy(whole) < 0.6 * env_steps + 0.1


def test_the_smoke_stage_is_not_done_by_one_policy() -> None:
    whole = recipe("smoke")
    assert steps_by_first_policy(whole) <= 0.3 * whole.fleet.env_steps
    assert online_limits(recipe("full"), LearnerConfig()).publish_every == OnlineLimits().publish_every == 50


@pytest.mark.parametrize("env_steps", [1, 20, 1000, 10**7])
@pytest.mark.parametrize(("ratio", "least"), [(0.05, 2000), (0.02, 500), (3.0, 0), (1e-4, 10)])
def test_neither_side_waits_for_the_other_forever(env_steps: int, ratio: float, least: int) -> None:
    limiter = UpdateToDataLimiter(updates_per_step=ratio, min_steps=least)
    updates = 0
    for _ in range(50):
        allowed = limiter.updates_allowed(limiter.step_budget(updates, env_steps))
        assert allowed > updates
        updates = allowed


def test_a_real_robot_waits_only_where_the_method_takes_turns() -> None:
    whole = recipe("full")
    assert step_budget(whole, 0, real=True) == whole.fleet.env_steps > step_budget(whole, 0, real=False)
    rounds = with_method(whole, "recap")
    assert step_budget(rounds, 0, real=True) == step_budget(rounds, 0, real=False) == whole.fleet.env_steps // 2


def row(newest: int, acting: float, steps: int) -> dict:
    metrics = {"replay/acting_policy": acting, "replay/episodes": 124.0, "replay/env_steps": float(steps)}
    return {"policy_version": newest, "update": 50 * newest, "metrics": metrics}


def test_a_fleet_that_is_far_behind_is_told_with_its_numbers() -> None:
    said = behind(row(3, 0.0, 49_600), 50_000)
    for part in ("policy 0", "newest is 3", "124 episodes", "49600 of 50000", "150 updates", "--robots"):
        assert part in said
    assert "policy 4" in behind(row(20, 4.0, 30_000), 150_000)


def test_a_fleet_that_keeps_up_is_told_nothing() -> None:
    assert behind(row(0, -1.0, 0), 150_000) == ""
    assert behind(row(3, 0.0, 5_000), 150_000) == ""
    assert behind(row(100, 90.0, 110_000), 150_000) == ""
