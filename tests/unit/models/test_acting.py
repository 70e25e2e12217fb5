"""Policies around a flow policy: the best of several chunks, and the one that is asked for good chunks."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lwd.errors import ConfigError
from lwd.models.advantage import POSITIVE, UNSAID, AdvantagePolicy
from lwd.models.best_of_n import BestOfN
from lwd.models.checkpoint import load_policy, load_vla, policy_bytes
from lwd.types import Observation

NOISE = np.random.default_rng(0).standard_normal((4, 3, 2), dtype=np.float32)


@pytest.fixture
def advantage(policy) -> AdvantagePolicy:
    made = AdvantagePolicy(policy, guidance=1.5)
    torch.manual_seed(3)
    with torch.no_grad():
        made.indicator_IC.normal_()
    return made


@pytest.fixture
def best(policy, critic) -> BestOfN:
    return BestOfN(policy, critic, samples=5)


def observed(count: int) -> list[Observation]:
    return [Observation(state=np.linspace(-1, number, 7, dtype=np.float32)) for number in range(count)]


@pytest.mark.parametrize("kind", ["policy", "advantage", "best"])
def test_a_loaded_policy_of_every_kind_acts_identically(kind, request):
    made = request.getfixturevalue(kind)
    made.instructions.add(["open the drawer"])
    loaded = load_policy(policy_bytes(made))
    assert type(loaded) is type(made)
    seen, said = observed(4), ["open the drawer"] * 4
    np.testing.assert_array_equal(loaded.act(seen, said, noise_BHA=NOISE), made.act(seen, said, noise_BHA=NOISE))
    assert policy_bytes(loaded) == policy_bytes(made)


def test_the_flow_policy_inside_is_found(policy, advantage, best):
    for made in (policy, advantage, best):
        for name, tensor in load_vla(policy_bytes(made)).state_dict().items():
            assert torch.equal(tensor, policy.state_dict()[name]), name


def test_best_of_n_takes_the_chunk_that_the_critic_likes_best(policy, critic, make_batch):
    critic.q = lambda z, chunk, mask=None: (chunk[..., 0].sum(1),) * 2
    batch, noise = make_batch(4).observation, torch.from_numpy(NOISE)
    best = BestOfN(policy, critic, samples=5)
    proposals = policy.sample(batch.repeat(5), best._noise(noise)).unflatten(0, (5, 4))
    likes = proposals.clamp(-1, 1)[..., 0].sum(-1)
    chosen = best.sample(batch, noise)
    assert_close(chosen[..., 0].clamp(-1, 1).sum(-1), likes.amax(dim=0))
    assert_close(proposals[0], policy.sample(batch, noise))
    assert len(likes.argmax(dim=0).unique()) > 1


def test_best_of_one_is_the_policy(policy, critic):
    said = ["open the drawer"] * 4
    one = BestOfN(policy, critic, samples=1)
    np.testing.assert_allclose(
        one.act(observed(4), said, noise_BHA=NOISE), policy.act(observed(4), said, noise_BHA=NOISE), atol=1e-6
    )


def test_the_best_chunk_does_not_depend_on_who_else_is_in_the_batch(best):
    said = ["open the drawer"] * 4
    together = best.act(observed(4), said, noise_BHA=NOISE)
    alone = [best.act([seen], said[:1], noise_BHA=NOISE[i : i + 1])[0] for i, seen in enumerate(observed(4))]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


@pytest.mark.parametrize(("guidance", "indicator"), [(0.0, UNSAID), (1.0, POSITIVE)])
def test_guidance_of_zero_and_one_are_the_plain_policies(guidance, indicator, advantage, make_batch):
    """g = 0 is the policy that is told nothing, g = 1 the one that is asked for good chunks."""
    batch, noise = make_batch(4).observation, torch.from_numpy(NOISE)
    advantage.guidance = guidance
    guided = advantage.sample(batch, noise)
    context = advantage.encode(batch, torch.full((4,), indicator))
    chunk = noise
    for step in range(10):
        chunk = chunk + advantage.velocity(context, chunk, torch.full((4,), step / 10)) / 10
    assert_close(guided, chunk, atol=1e-5, rtol=1e-5)


def test_a_new_advantage_policy_acts_as_the_policy_inside(policy):
    said = ["open the drawer"] * 4
    np.testing.assert_allclose(
        AdvantagePolicy(deepcopy(policy), 3.0).act(observed(4), said, noise_BHA=NOISE),
        policy.act(observed(4), said, noise_BHA=NOISE),
        atol=1e-5,
    )


def test_no_sample_is_refused(policy, critic):
    with pytest.raises(ConfigError, match="samples is 0"):
        BestOfN(policy, critic, samples=0)
    other = deepcopy(critic)
    other.embodiment = replace(critic.embodiment, name="other")
    with pytest.raises(Exception, match="the critic of 'other'"):
        BestOfN(policy, other, samples=2)
