"""SFT and LWD: what changes, what must not, and exact continuation."""

import dataclasses
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.sft import SFT, SFTConfig
from lwd.algos.temperature import QSpread
from lwd.errors import ConfigError, NonFiniteLoss
from lwd.learner.state_file import load_state_bytes, state_bytes


def build_lwd(policy, critic, **settings) -> LWD:
    config = LWDConfig(actor_learning_rate=1e-3, critic_learning_rate=1e-3, spread_every=3, **settings)
    return LWD(deepcopy(policy), deepcopy(policy), deepcopy(critic), config, torch.Generator().manual_seed(0))


def build_sft(policy, critic) -> SFT:
    return SFT(deepcopy(policy), SFTConfig(total_updates=50, warmup_updates=2), torch.Generator().manual_seed(0))


def equal_states(first: dict, second: dict) -> bool:
    for key, value in first.items():
        other = second[key]
        if isinstance(value, dict):
            if not equal_states(value, other):
                return False
        elif isinstance(value, torch.Tensor):
            if not torch.equal(value, other):
                return False
        elif value != other:
            return False
    return first.keys() == second.keys()


@pytest.mark.parametrize(
    "build",
    [
        build_sft,
        lambda policy, critic: build_lwd(policy, critic, temperature="auto", actor_every=2),
        lambda policy, critic: build_lwd(policy, critic, temperature=0.1, train_backbone=False, total_updates=20),
        lambda policy, critic: build_lwd(policy, critic, temperature=0.1, rollout="policy"),
        lambda policy, critic: build_lwd(policy, critic, temperature=0.1, reference_learning_rate=1e-3),
        lambda policy, critic: build_lwd(policy, critic, temperature=0.1, critic_warmup_updates=6),
    ],
)
def test_continuing_from_a_saved_state_equals_never_having_stopped(build, policy, critic, make_batch):
    uninterrupted = build(policy, critic)
    for index in range(9):
        uninterrupted.update(make_batch(seed=index))
    first_half = build(policy, critic)
    for index in range(4):
        first_half.update(make_batch(seed=index))
    saved = state_bytes(first_half.state())
    second_half = build(policy, critic)
    second_half.load_state(load_state_bytes(saved))
    for index in range(4, 9):
        second_half.update(make_batch(seed=index))
    assert equal_states(second_half.state(), uninterrupted.state())
    assert not equal_states(first_half.state(), uninterrupted.state())


def test_reference_and_frozen_backbone_never_change(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, temperature=0.01, train_backbone=False)
    for index in range(5):
        algorithm.update(make_batch(seed=index))
    for name, before in policy.state_dict().items():
        assert torch.equal(algorithm.reference.state_dict()[name], before), name
        changed = not torch.equal(algorithm.policy.state_dict()[name], before)
        assert changed == (name.startswith("expert.") and not name.endswith("frequencies")), name


def test_a_following_reference_imitates_and_carries_the_policy_along(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, temperature=0.1, reference_learning_rate=1e-3, reference_polyak_rate=0.5)
    batch = make_batch(64)
    names = [name for name, _ in policy.named_parameters()]

    def weights(network):
        return {name: parameter.clone() for name, parameter in network.named_parameters()}

    algorithm.update_actor(batch.observation)  # some distance between policy and reference
    distance = {name: weights(algorithm.policy)[name] - weights(algorithm.reference)[name] for name in names}
    assert any(part.abs().max() > 0 for part in distance.values())
    losses = [algorithm.update_reference(batch)["loss/reference"] for _ in range(200)]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    after, reference = weights(algorithm.policy), weights(algorithm.reference)
    for name in names:
        assert_close(after[name] - reference[name], distance[name], atol=1e-5, rtol=0)
    assert any((reference[name] - parameter).abs().max() > 0.01 for name, parameter in policy.named_parameters())


def test_a_following_reference_keeps_a_frozen_backbone_and_waits_for_something_to_imitate(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, temperature=0.1, reference_learning_rate=1e-3, train_backbone=False)
    batch = make_batch()
    assert algorithm.update_reference(dataclasses.replace(batch, imitable_BH=torch.zeros_like(batch.imitable_BH))) == {}
    assert equal_states(dict(algorithm.reference.state_dict()), dict(policy.state_dict()))
    algorithm.update_reference(batch)
    for name, before in policy.named_parameters():
        changed = not torch.equal(dict(algorithm.reference.named_parameters())[name], before)
        assert changed == name.startswith("expert."), name


def test_the_deployed_policy_is_the_running_average(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, temperature=0.01, policy_polyak_rate=0.25)
    algorithm.update_actor(make_batch().observation)
    for name, before in policy.named_parameters():
        trained = dict(algorithm.policy.named_parameters())[name]
        assert_close(algorithm.deployed_policy().state_dict()[name], 0.75 * before + 0.25 * trained)


def test_at_infinite_temperature_the_policy_stays_at_the_reference(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, temperature=1e9)
    metrics = algorithm.update_actor(make_batch().observation)
    assert metrics["loss/actor"] < 1e-12
    assert metrics["gradient_norm/actor"] < 1e-5


def test_target_critic_trails_by_the_polyak_rate(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, polyak_rate=0.25)
    before = [p.clone() for p in algorithm.target_critic.parameters()]
    algorithm.update_critic(make_batch())
    for old, target, online in zip(
        before, algorithm.target_critic.parameters(), algorithm.critic.parameters(), strict=True
    ):
        assert_close(target, 0.75 * old + 0.25 * online)


@pytest.mark.learning
def test_terminal_transitions_learn_their_return(policy, critic, make_batch):
    """With every window terminal, both critics and the value converge to the observed returns' scale."""
    batch = make_batch(32)
    batch = dataclasses.replace(batch, bootstrap_discount_B=torch.zeros(32))
    algorithm = build_lwd(policy, critic, critic_warmup_updates=10**6, polyak_rate=0.05)
    for _ in range(300):
        metrics = algorithm.update(batch)
    assert metrics["loss/critic"] < 0.01
    z = algorithm.critic.encode(batch.observation)
    chunk = algorithm.critic.normalizer.action(batch.action_chunk_BHA)
    q1, _ = algorithm.critic.q(z, chunk, batch.action_mask_BH)
    assert (q1 - batch.return_B).abs().max() < 0.2


@pytest.mark.parametrize("build", [build_sft, build_lwd])
def test_a_nan_in_the_data_stops_before_any_parameter_changes(build, policy, critic, make_batch):
    algorithm = build(policy, critic)
    before = deepcopy(algorithm.state())
    batch = make_batch()
    batch.action_chunk_BHA[0, 0, 0] = torch.nan
    batch.action_mask_BH[0, 0] = batch.imitable_BH[0, 0] = True
    with pytest.raises(NonFiniteLoss, match="nan"):
        algorithm.update(batch)
    for network in ("policy", "critic"):
        if network in before:
            assert equal_states(before[network], algorithm.state()[network])


@pytest.mark.parametrize("rollout", ["reference", "policy"])
def test_qam_moves_the_policy_towards_what_q_prefers(rollout, policy, critic, make_batch):
    """Behaviour of the whole actor update: with Q rising along the first action, samples move up."""
    algorithm = build_lwd(policy, critic, temperature=0.3, train_backbone=False, rollout=rollout)
    slope = torch.tensor([1.0, 0.0])
    algorithm.target_critic.q = lambda z, chunk, mask=None: ((chunk * slope).sum((-1, -2)),) * 2
    observation = make_batch(64).observation

    def mean_action(network) -> torch.Tensor:
        from lwd.ops.flow import ode_sample

        with torch.no_grad():
            context = network.encode(observation)
            noise = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(5))
            return ode_sample(lambda x, w: network.velocity(context, x, w), noise, 10).mean((0, 1))

    before = mean_action(algorithm.policy)
    for _ in range(120):
        algorithm.update_actor(observation)
    moved = mean_action(algorithm.policy) - before
    assert moved[0] > 0.3
    assert moved[1].abs() < 0.3 * moved[0]


def test_auto_temperature_follows_the_spread_of_q(policy, critic, make_batch):
    algorithm = build_lwd(policy, critic, temperature="auto", auto_temperature_fraction=0.5)
    metrics = algorithm.update(make_batch())
    assert metrics["qam/temperature"] == pytest.approx(0.5 * metrics["critic/q_spread"])
    spread = QSpread(rate=0.5)
    with pytest.raises(ConfigError, match="never measured"):
        spread.temperature(0.5)
    spread.add(1.0)
    spread.add(0.0)
    assert spread.temperature(0.5) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"actor_every": 0},
        {"auto_temperature_fraction": -1.0},
        {"reference_learning_rate": 0.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LWDConfig(**settings)
