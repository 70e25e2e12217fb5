"""Episodes whose end nobody judged: validated, stored, imitated where the user says so, never a critic's."""

import numpy as np
import pytest

from lwd.data.arena import ReplayArena
from lwd.data.episode_file import read_episode, write_episode
from lwd.data.sampling import BatchSampler, Stratum, from_sources
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import ConfigError, EpisodeRejected
from lwd.recipes.scene import recipe
from lwd.recipes.stages import chunks_per_target, offline_strata, online_strata
from lwd.types import Outcome, Source

from .episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)


def unlabelled(number: int, source: Source = Source.DEMONSTRATION, **info):
    return episode(number, source=source, outcome=Outcome.UNLABELLED, policy_version=-1, **info)


def arena_of(*episodes) -> ReplayArena:
    arena = ReplayArena(EMBODIMENT, horizon=4, gamma=0.9, embed=lambda text: np.zeros(2, np.float32))
    arena.add(episodes)
    return arena


def test_only_recordings_can_be_unlabelled():
    for source in (Source.DEMONSTRATION, Source.ROLLOUT, Source.PLAY):
        found = validate_episode(write_episode(unlabelled(0, source)), LIMITS)
        assert read_episode(write_episode(found)).info.outcome is Outcome.UNLABELLED
    with pytest.raises(EpisodeRejected, match="a fleet episode is unlabelled"):
        validate_episode(episode(0, outcome=Outcome.UNLABELLED), LIMITS)
    assert [outcome for outcome in Outcome if outcome.terminal] == ["success", "failure", "time_limit"]


def test_no_critic_draws_from_them_whatever_their_source():
    arena = arena_of(unlabelled(0), unlabelled(1, Source.ROLLOUT))
    stage = recipe("full").online
    for strata in (offline_strata(stage), online_strata(stage)):
        with pytest.raises(ConfigError, match="no episode of the arena fits any stratum"):
            BatchSampler(arena, strata, batch_size=8, seed=0).batch(0)


def test_beside_labelled_ones_they_leave_no_trace_in_a_critics_batches():
    labelled = [episode(n, source=Source.ROLLOUT, policy_version=-1, outcome=Outcome.FAILURE) for n in (1, 2)]
    alone = BatchSampler(arena_of(*labelled), offline_strata(recipe("full").offline), batch_size=64, seed=0)
    arena = arena_of(unlabelled(0), labelled[0], unlabelled(3, Source.ROLLOUT), labelled[1])
    beside = BatchSampler(arena, offline_strata(recipe("full").offline), batch_size=64, seed=0)
    for update in range(3):
        one, other = alone.batch(update), beside.batch(update)
        assert one.action_chunk_BHA.equal(other.action_chunk_BHA)
        assert one.bootstrap_discount_B.equal(other.bootstrap_discount_B)


def test_a_stratum_that_asks_for_them_gets_those_that_are_worth_imitating():
    arena = arena_of(unlabelled(0), unlabelled(1, Source.ROLLOUT))
    stratum = Stratum(episodes=from_sources(Source.DEMONSTRATION), unlabelled=True)
    batch = BatchSampler(arena, [stratum], batch_size=200, seed=0).batch(0)
    assert batch.imitable_BH.equal(batch.action_mask_BH)
    assert batch.return_B.sum() == 0
    assert (batch.bootstrap_discount_B > 0).all()
    starts = {tuple(row) for row in batch.observation.state_BS.numpy().tolist()}
    assert starts <= {tuple(row) for row in unlabelled(0).states_TS.tolist()}


def test_tasks_that_no_recipe_knows_count_as_long():
    stage = recipe("full").offline
    arena = arena_of(episode(0, source=Source.ROLLOUT, policy_version=-1, steps=20, outcome=Outcome.FAILURE))
    sampler = BatchSampler(arena, offline_strata(stage), batch_size=64, n_step=chunks_per_target(stage), seed=0)
    discounts = set(np.round(np.log(sampler.batch(0).bootstrap_discount_B.numpy().clip(1e-9)) / np.log(0.9)).tolist())
    assert max(d for d in discounts if d < 100) == 4 * stage.n_step_long
