"""The update-to-data limiter."""

import pytest

from lwd.errors import ConfigError
from lwd.learner.limiter import RoundLimiter, UpdateToDataLimiter


def test_updates_follow_the_ratio_after_the_first_steps():
    limiter = UpdateToDataLimiter(updates_per_step=0.1, min_steps=1000)
    assert limiter.updates_allowed(0) == 0
    assert limiter.updates_allowed(1000) == 0
    assert limiter.updates_allowed(1500) == 50


def test_the_fleet_may_lead_by_so_many_steps_and_no_more():
    limiter = UpdateToDataLimiter(updates_per_step=0.1, max_lead_steps=5000)
    assert limiter.step_budget(0, 10**6) == 5000
    assert limiter.step_budget(100, 10**6) == 6000


def test_neither_side_can_wait_for_the_other_forever():
    """At the fleet's limit the learner always has an update to do, and the other way round."""
    limiter = UpdateToDataLimiter(updates_per_step=0.05, min_steps=400, max_lead_steps=500)
    updates = 0
    for _ in range(50):
        allowed = limiter.updates_allowed(limiter.step_budget(updates, 10**6))
        assert allowed > updates
        updates = allowed


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("updates_per_step", {"updates_per_step": 0.0}),
        ("min_steps", {"updates_per_step": 1.0, "min_steps": -1}),
        ("max_lead_steps", {"updates_per_step": 1.0, "min_steps": 100, "max_lead_steps": 100}),
    ],
)
def test_settings_that_deadlock_are_refused(field, settings):
    with pytest.raises(ConfigError, match=field):
        UpdateToDataLimiter(**settings)


def test_rounds_of_rollouts_and_training_take_turns():
    limiter = RoundLimiter(steps_per_round=500, updates_per_round=20)
    assert limiter.updates_allowed(499) == 0
    assert limiter.updates_allowed(999) == 20
    assert [limiter.step_budget(updates, 2000) for updates in (0, 19, 20, 39, 40)] == [500, 500, 1000, 1000, 1500]
    updates = 0
    for _ in range(10):
        allowed = limiter.updates_allowed(limiter.step_budget(updates, 2000))
        assert allowed > updates
        updates = allowed


@pytest.mark.parametrize("field", ["steps_per_round", "updates_per_round"])
def test_empty_rounds_are_refused(field):
    with pytest.raises(ConfigError, match=field):
        RoundLimiter(**({"steps_per_round": 1, "updates_per_round": 1} | {field: 0}))
