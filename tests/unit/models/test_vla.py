"""The small VLA as a `FlowPolicy`."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lwd.errors import ShapeError
from lwd.models.checkpoint import load_policy, policy_bytes
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.protocol import ContinuingPolicy
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment, Observation, TokenSpec


def observations(embodiment: Embodiment, count: int, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [Observation(state=rng.normal(size=embodiment.state_size).astype(np.float32)) for _ in range(count)]


def test_velocity_of_stacked_steps_equals_velocity_step_by_step(policy, make_batch):
    context = policy.encode(make_batch(5).observation)
    chunks, times = torch.randn(4, 5, 3, 2), torch.rand(4, 1)
    stacked = policy.velocity(context, chunks, times)
    single = torch.stack(
        [policy.velocity(context, chunk, time.expand(5)) for chunk, time in zip(chunks, times, strict=True)]
    )
    assert_close(stacked, single)


def test_one_flow_time_for_all_equals_the_same_time_for_each(policy, make_batch):
    context, chunk = policy.encode(make_batch(5).observation), torch.randn(5, 3, 2)
    shared = policy.velocity(context, chunk, torch.full((1,), 0.3).expand(5))
    assert_close(shared, policy.velocity(context, chunk, torch.full((5,), 0.3)))
    assert not torch.allclose(shared, policy.velocity(context, chunk, torch.full((5,), 0.4)))


def test_vjp_equals_automatic_differentiation(policy, make_batch):
    context = policy.encode(make_batch(5).observation).detach()
    chunks, times = torch.randn(4, 5, 3, 2, requires_grad=True), torch.rand(4, 1)
    vjp = policy.field(context).linearize(chunks.detach(), times)
    velocity = policy.velocity(context, chunks, times)
    for step in range(4):
        gradient = torch.randn(5, 3, 2)
        (expected,) = torch.autograd.grad(velocity[step], chunks, gradient, retain_graph=True)
        assert_close(vjp(step, gradient), expected[step])


def test_bfloat16_products_stay_close_and_return_float32(policy, make_batch):
    observation, chunk, time = make_batch(64).observation, torch.randn(64, 3, 2), torch.rand(64)
    exact = policy.velocity(policy.encode(observation), chunk, time)
    policy.precision = "bfloat16"
    rounded = policy.velocity(policy.encode(observation), chunk, time)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


def test_actions_are_within_the_limits_and_repeatable(policy, embodiment):
    seen = observations(embodiment, 6)
    texts = ["open the drawer"] * 6
    first = policy.act(seen, texts, generator=torch.Generator().manual_seed(3))
    again = policy.act(seen, texts, generator=torch.Generator().manual_seed(3))
    assert first.shape == (6, 3, 2)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert (first >= embodiment.action_low).all()
    assert (first <= embodiment.action_high).all()


def test_with_given_noise_an_action_does_not_depend_on_the_rest_of_the_batch(policy, embodiment):
    seen = observations(embodiment, 6)
    noise = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
    together = policy.act(seen, ["go"] * 6, noise_BHA=noise)
    alone = policy.act(seen[4:5], ["go"], noise_BHA=noise[4:5])
    np.testing.assert_allclose(together[4:5], alone, atol=1e-5)


def test_statistics_of_another_embodiment_are_refused(embodiment):
    with pytest.raises(ShapeError, match="2 state entries"):
        SmallVLA(embodiment, VLAConfig(), StateStatistics(mean=(0.0,) * 2, std=(1.0,) * 2))


def test_every_token_has_its_own_embedding(policy, make_batch):
    """A change of one token's entries leaves the other token's embedding alone."""
    tokens = policy.backbone.state
    state = torch.randn(1, 7)
    changed = state.clone()
    changed[:, 4:] += 1
    difference = (tokens(changed) - tokens(state)).abs().view(2, -1).sum(dim=-1)
    assert difference[0] == 0
    assert difference[1] > 0


def test_sentence_encoder_puts_a_paraphrase_nearer_than_another_task():
    encoder = InstructionEncoder()
    encoder.add(["open the drawer", "please pull the drawer open", "shut the window"])
    base, paraphrase, other = (encoder(text) for text in encoder.known)
    assert base.shape == (384,)
    assert np.linalg.norm(base - paraphrase) < np.linalg.norm(base - other)


def test_copies_of_a_policy_share_the_instructions_they_met(policy):
    averaged = deepcopy(policy)
    policy.instructions.add(["fold the towel"])
    assert "fold the towel" in averaged.instructions.known
    assert load_policy(policy_bytes(averaged)).instructions.known.keys() == policy.instructions.known.keys()


def test_pixel_policy_learns_where_to_go_from_an_image():
    """Two images ask for opposite actions: flow matching on them must produce those actions."""
    from lwd.algos.sft import SFT, SFTConfig
    from lwd.batch import ObservationBatch, TransitionBatch

    torch.manual_seed(0)
    embodiment = Embodiment(
        name="camera", control_hz=10.0, state_tokens=(TokenSpec(name="proprio", size=2),),
        action_low=(-1.0,), action_high=(1.0,), cameras={"pixels.top": (32, 32)},
    )  # fmt: skip
    statistics = StateStatistics(mean=(0.0, 0.0), std=(1.0, 1.0))
    config = VLAConfig(horizon=2, token_width=8, context_size=32, expert_width=64, expert_depth=2)
    policy = SmallVLA(embodiment, config, statistics)
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    images[0, :, :16], images[1, :, 16:] = 255, 255
    side = torch.arange(64) % 2
    observation = ObservationBatch(
        state_BS=torch.zeros(64, 2), instruction_BE=torch.zeros(64, 384), images={"pixels.top": images[side]}
    )
    action = torch.where(side == 0, -0.8, 0.8)[:, None, None].expand(64, 2, 1)
    batch = TransitionBatch(
        observation=observation, action_chunk_BHA=action, action_mask_BH=torch.ones(64, 2, dtype=torch.bool),
        human_BH=torch.zeros(64, 2, dtype=torch.bool), return_B=torch.zeros(64), outcome_return_B=torch.zeros(64),
        bootstrap_observation=observation,
        bootstrap_discount_B=torch.zeros(64), task_B=torch.zeros(64, dtype=torch.int64),
        imitable_BH=torch.ones(64, 2, dtype=torch.bool),
    )  # fmt: skip
    algorithm = SFT(policy, SFTConfig(learning_rate=3e-3, polyak_rate=0.05), torch.Generator().manual_seed(0))
    for _ in range(150):
        algorithm.update(batch)
    policy.load_state_dict(algorithm.deployed_policy().state_dict())
    policy.instructions = InstructionEncoder({"go": np.zeros(384, np.float32)})
    seen = [Observation(state=np.zeros(2, np.float32), images={"pixels.top": image.numpy()}) for image in images]
    actions = policy.act(seen * 8, ["go"] * 16, generator=torch.Generator().manual_seed(1)).reshape(8, 2, -1)
    assert actions[:, 0].mean() == pytest.approx(-0.8, abs=0.15)
    assert actions[:, 1].mean() == pytest.approx(0.8, abs=0.15)


def test_a_continuing_chunk_keeps_to_the_queue_as_a_new_one_does_not(policy, embodiment):
    (seen,) = observations(embodiment, 1)
    queued_OA = np.array([[0.6, 3.0], [0.4, 2.0]], np.float32)

    def errors(chunk_HA):
        # In units of half the limits' range: 1 and 3.
        return np.abs(chunk_HA[:2] - queued_OA) / np.array([1, 3])

    new_HA = policy.act([seen], ["go"], generator=torch.Generator().manual_seed(4))[0]
    held_HA = policy.continue_chunk(seen, "go", queued_OA, frozen=2, generator=torch.Generator().manual_seed(4))
    assert held_HA.shape == (3, 2)
    assert held_HA.dtype == np.float32
    assert errors(held_HA).max() < 0.25 * errors(new_HA).max()
    # With nothing queued it is the policy's own chunk.
    nothing = policy.continue_chunk(seen, "go", queued_OA[:0], frozen=0, generator=torch.Generator().manual_seed(4))
    np.testing.assert_allclose(nothing, new_HA, atol=1e-6)
    # More than a chunk long: its first H steps count.
    long_OA = np.concatenate([queued_OA] * 3)
    assert policy.continue_chunk(seen, "go", long_OA, frozen=2, generator=torch.Generator()).shape == (3, 2)
    with pytest.raises(ShapeError, match="frozen is 2, overlap 1"):
        policy.continue_chunk(seen, "go", queued_OA[:1], frozen=2, generator=torch.Generator())
    assert isinstance(policy, ContinuingPolicy)
