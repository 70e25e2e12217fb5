"""What LWD is compared with: the mathematics of each part, and that nothing else is trained."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.recap import Recap, RecapConfig
from lwd.errors import ConfigError
from lwd.learner.state_file import load_state_bytes, state_bytes
from lwd.models.advantage import AdvantagePolicy
from lwd.models.best_of_n import BestOfN
from lwd.models.critic import ValueCritic
from lwd.models.vla import SmallVLA
from lwd.ops.categorical import two_hot

from .test_algorithms import equal_states


def critic_with(critic: ValueCritic, **sizes) -> ValueCritic:
    torch.manual_seed(1)
    horizon = critic.pooling.position.shape[0]
    return ValueCritic(critic.embodiment, replace(critic.config, **sizes), critic.normalizer.statistics, horizon)


def one_step(policy: SmallVLA) -> SmallVLA:
    changed = SmallVLA(policy.embodiment, replace(policy.config, flow_steps=1), policy.normalizer.statistics)
    changed.load_state_dict(policy.state_dict())
    return changed


def variant(policy, critic, **settings) -> LWD:
    defaults = {"temperature": 0.1, "critic_learning_rate": 1e-3, "actor_learning_rate": 1e-3}
    config = LWDConfig(**(defaults | settings))
    actor = one_step(policy) if config.extraction == "fql" else deepcopy(policy)
    return LWD(actor, deepcopy(policy), deepcopy(critic), config, torch.Generator().manual_seed(0))


def expectile(policy, critic, **settings) -> LWD:
    return variant(policy, critic_with(critic, num_atoms=1), value="expectile", **settings)


def qam(policy, critic) -> LWD:
    return variant(policy, critic_with(critic, num_critics=4), value="policy_td", reference_learning_rate=1e-3)


def fql(policy, critic) -> LWD:
    return variant(policy, critic, extraction="fql", reference_learning_rate=1e-3)


def best_of_n(policy, critic) -> LWD:
    return variant(policy, critic, extraction="best_of_n", reference_learning_rate=1e-3, samples=4)


def recap(policy, critic, **settings) -> Recap:
    config = RecapConfig(**({"round_updates": 10, "calibration_updates": 2, "policy_polyak_rate": 0.5} | settings))
    torch.manual_seed(2)
    return Recap(AdvantagePolicy(deepcopy(policy), 1.5), deepcopy(critic), config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build", [expectile, qam, fql, best_of_n, recap])
def test_continuing_from_a_saved_state_equals_never_having_stopped(build, policy, critic, make_batch):
    uninterrupted = build(policy, critic)
    for index in range(9):
        uninterrupted.update(make_batch(seed=index))
    first_half = build(policy, critic)
    for index in range(6):  # RECAP's policy phase, its advantages partly measured
        first_half.update(make_batch(seed=index))
    second_half = build(policy, critic)
    second_half.load_state(load_state_bytes(state_bytes(first_half.state())))
    for index in range(6, 9):
        second_half.update(make_batch(seed=index))
    assert equal_states(second_half.state(), uninterrupted.state())
    assert not equal_states(first_half.state(), uninterrupted.state())


# ---- value learning --------------------------------------------------------------------------------------------


@pytest.mark.learning
@pytest.mark.parametrize("level", [0.2, 0.7])
def test_the_expectile_value_solves_its_fixed_point(level, policy, critic, make_batch):
    """At a state with two equally frequent chunks, level * mean(Q - V)+ = (1 - level) * mean(V - Q)+."""
    batch = make_batch(2)
    same = replace(
        batch,
        observation=batch.observation.rows(torch.tensor([0, 0])),
        action_mask_BH=torch.ones(2, 3, dtype=torch.bool),
        bootstrap_discount_B=torch.zeros(2),
        return_B=torch.tensor([0.0, 1.0]),
    )
    algorithm = expectile(policy, critic, expectile=level, critic_warmup_updates=10**6, polyak_rate=0.1)
    for _ in range(600):
        algorithm.update(same)
    z = algorithm.critic.encode(same.observation)
    chunk = algorithm.critic.normalizer.action(same.action_chunk_BHA)
    q_B = torch.stack(algorithm.critic.q(z, chunk, same.action_mask_BH)).amin(dim=0).detach()
    assert_close(q_B, torch.tensor([0.0, 1.0]), atol=0.05, rtol=0)
    # Of 0 and 1, half each, the expectile is the level itself.
    assert_close(algorithm.critic.value(z).detach(), torch.full((2,), level), atol=0.06, rtol=0)


def test_the_ensembles_target_is_its_mean_less_half_its_spread(policy, critic, make_batch):
    algorithm = qam(policy, critic)
    batch = replace(make_batch(), return_B=torch.zeros(16), bootstrap_discount_B=torch.full((16,), 0.5))
    heads = torch.tensor([0.2, 0.4, 0.6, 0.8])
    algorithm.target_critic.q = lambda z, chunk, mask=None: tuple(head.expand(len(chunk)) for head in heads)
    metrics = algorithm.update_critic(batch)
    spread = heads.std(correction=0).item()
    assert metrics["ensemble/target_mean"] == pytest.approx(0.5 * (0.5 - 0.5 * spread))
    assert metrics["ensemble/std"] == pytest.approx(spread)


def test_the_ensembles_target_acts_by_the_present_policy(policy, critic, make_batch):
    algorithm, seen = qam(policy, critic), []
    real = algorithm.target_critic.q

    def spy(z, chunk, mask=None):
        seen.append(chunk.clone())
        return real(z, chunk, mask)

    algorithm.target_critic.q = spy
    batch, generator = make_batch(), deepcopy(algorithm.generator.get_state())
    algorithm.update_critic(batch)
    noise = torch.randn((16, 3, 2), generator=torch.Generator().set_state(generator))
    expected = algorithm.policy.sample(batch.bootstrap_observation, noise).clamp(-1, 1)
    assert_close(seen[0], expected.detach())


def test_a_value_of_the_wrong_form_is_refused(policy, critic):
    with pytest.raises(ConfigError, match="num_atoms of the critic 201"):
        variant(policy, critic, value="expectile")
    with pytest.raises(ConfigError, match="num_atoms of the critic 1"):
        variant(policy, critic_with(critic, num_atoms=1))
    config, generator = LWDConfig(extraction="fql"), torch.Generator()
    with pytest.raises(ConfigError, match="flow_steps of the policy is 10"):
        LWD(deepcopy(policy), deepcopy(policy), deepcopy(critic), config, generator)


# ---- policy extraction -----------------------------------------------------------------------------------------


def test_fql_trains_the_one_step_policy_alone(policy, critic, make_batch):
    algorithm = variant(policy, critic, extraction="fql")
    before = deepcopy(algorithm.state())
    algorithm.update_actor(make_batch().observation)
    after = algorithm.state()
    assert not equal_states(before["policy"], dict(after["policy"]))
    for network in ("reference", "critic", "target_critic"):
        assert equal_states(dict(before[network]), dict(after[network])), network


def test_fql_without_a_critics_wish_becomes_the_reference(policy, critic, make_batch):
    algorithm = variant(policy, critic, extraction="fql", distillation_weight=1.0, actor_learning_rate=3e-3)
    algorithm.target_critic.q = lambda z, chunk, mask=None: (torch.ones(len(chunk)) + 0 * chunk.sum((1, 2)),) * 2
    states = make_batch(64).observation
    noise = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(5))
    wanted = algorithm.reference.sample(states, noise)

    def distance() -> float:
        return (algorithm.policy.sample(states, noise) - wanted).square().mean().item()

    before = distance()
    for _ in range(300):
        algorithm.update_actor(states)
    assert distance() < 0.3 * before


def test_fql_follows_q(policy, critic, make_batch):
    algorithm = variant(policy, critic, extraction="fql", distillation_weight=1.0)
    algorithm.target_critic.q = lambda z, chunk, mask=None: (1 + chunk[..., 0].sum(1),) * 2
    states = make_batch(64).observation
    noise = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(5))
    before = algorithm.policy.sample(states, noise).mean((0, 1))
    for _ in range(100):
        algorithm.update_actor(states)
    moved = algorithm.policy.sample(states, noise).mean((0, 1)) - before
    assert moved[0] > 0.1
    assert moved[1].abs() < 0.3 * moved[0]


def test_best_of_n_deploys_the_reference_with_the_critic(policy, critic, make_batch):
    algorithm = best_of_n(policy, critic)
    for index in range(3):
        algorithm.update(make_batch(seed=index))
    deployed = algorithm.deployed_policy()
    assert isinstance(deployed, BestOfN)
    assert equal_states(dict(deployed.policy.state_dict()), dict(algorithm.reference.state_dict()))
    assert equal_states(dict(deployed.critic.state_dict()), dict(algorithm.target_critic.state_dict()))
    assert algorithm.update_actor(make_batch().observation) == {}


# ---- RECAP -----------------------------------------------------------------------------------------------------


def test_recaps_phases_train_v_then_only_measure_then_train_the_policy(policy, critic, make_batch):
    algorithm = recap(policy, critic)
    for update in range(20):
        before = deepcopy(algorithm.state())
        algorithm.update(make_batch(seed=update))
        after, phase = algorithm.state(), update % 10
        assert equal_states(dict(before["critic"]), dict(after["critic"])) == (phase >= 5), update
        assert equal_states(dict(before["policy"]), dict(after["policy"])) == (phase < 7), update


def test_recaps_value_learns_observed_returns(policy, critic, make_batch):
    algorithm = recap(policy, critic, round_updates=10**6)
    batch = make_batch(32)
    for _ in range(400):
        algorithm.update(batch)
    value_B = algorithm.critic.value(algorithm.critic.encode(batch.observation))
    assert (value_B - batch.outcome_return_B).abs().mean() < 0.05


def test_recap_calls_thirty_percent_of_each_task_positive_and_every_correction(policy, critic, make_batch):
    algorithm = recap(policy, critic, round_updates=100, calibration_updates=20)
    batches = [replace(make_batch(64, seed=index), task_B=torch.arange(64) % 3) for index in range(20)]
    algorithm.updates = 50
    for batch in batches:
        algorithm.update(batch)
    positive = torch.cat([algorithm.positive(batch)[0] for batch in batches])
    tasks = torch.cat([batch.task_B for batch in batches])
    for task in range(3):
        assert positive[tasks == task].float().mean().item() == pytest.approx(0.3, abs=0.01)
    human = torch.zeros(64, 3, dtype=torch.bool)
    human[:, 0] = True
    assert algorithm.positive(replace(batches[0], human_BH=human))[0].all()
    # What lies behind the episode's end was not done by anybody.
    nobody = replace(batches[0], human_BH=human, action_mask_BH=torch.zeros(64, 3, dtype=torch.bool))
    assert torch.equal(algorithm.positive(nobody)[0], algorithm.positive(batches[0])[0])


def test_recaps_advantage_is_what_a_chunk_gained_over_v(policy, critic, make_batch):
    algorithm, batch = recap(policy, critic), make_batch()
    atoms = algorithm.critic.atoms_K
    values = iter([torch.linspace(0, 1, 16), torch.linspace(1, 0, 16)])
    algorithm.critic.value_logits = lambda z: two_hot(next(values), atoms).clamp(min=1e-12).log()
    expected = batch.return_B + batch.bootstrap_discount_B * torch.linspace(1, 0, 16) - torch.linspace(0, 1, 16)
    assert_close(algorithm.advantage(batch), expected, atol=1e-5, rtol=0)


def test_recap_learns_to_tell_good_chunks_from_bad_ones(policy, critic, make_batch):
    """Chunks up at 0.5 gain, chunks down at -0.5 do not: asked for good ones, the policy goes up."""
    algorithm = recap(
        policy, critic, round_updates=2000, calibration_updates=5, policy_learning_rate=3e-3, policy_polyak_rate=0.02
    )
    batch = make_batch(64)
    up_B = torch.arange(64) % 4 == 0  # fewer than count as positive
    observation = batch.observation.rows(torch.zeros(64, dtype=torch.int64))
    action = torch.where(up_B, 0.5, -0.5)[:, None, None].expand(64, 3, 2) * torch.tensor([1.0, 3.0])
    action = action + torch.tensor([0.0, 1.0])  # the middle of the second action's limits
    batch = replace(
        batch,
        observation=observation,
        bootstrap_observation=observation,
        action_chunk_BHA=action,
        action_mask_BH=torch.ones(64, 3, dtype=torch.bool),
        return_B=up_B.float(),
        bootstrap_discount_B=torch.zeros(64),
    )
    algorithm.updates = 1000
    for _ in range(500):
        algorithm.update(batch)
    noise = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(5))
    asked = algorithm.deployed_policy().sample(observation, noise)
    algorithm.deployed_policy().guidance = 0.0
    unasked = algorithm.deployed_policy().sample(observation, noise)
    assert asked.mean() > 0.3
    assert unasked.mean() < 0


@pytest.mark.parametrize(
    "settings",
    [
        {"positive_share": 1.0},
        {"indicator_dropout": -0.1},
        {"calibration_updates": 0},
        {"round_updates": 5},
    ],
)
def test_impossible_recap_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RecapConfig(**({"round_updates": 10, "calibration_updates": 2} | settings))
